// Two reconstructions of one photograph under a wipe; zoom and scrolling move both, since they share one box.
(() => {
  const photographs = JSON.parse(document.getElementById("photographs").textContent);
  const element = (id) => document.getElementById(id);
  const [left, right] = [element("left"), element("right")];
  const [leftImage, rightImage] = [element("left-image"), element("right-image")];
  const [frame, box, wipe] = [element("frame"), element("box"), element("wipe")];
  let current = 0;
  let zoom = 1; // shown pixels per pixel of the photograph; 0 fits it into the frame

  const rowOf = (name) => photographs[current].rows.find((row) => row.name === name);

  function scale() {
    const photograph = photographs[current];
    return zoom || Math.min(1, frame.clientWidth / photograph.width);
  }

  function show() {
    const photograph = photographs[current];
    const factor = scale();
    box.style.width = `${photograph.width * factor}px`;
    box.style.height = `${photograph.height * factor}px`;
    box.classList.toggle("enlarged", factor > 1);
    box.style.setProperty("--cut", `${wipe.value}%`);
    for (const [choice, image, note] of [[left, leftImage, "left-note"], [right, rightImage, "right-note"]]) {
      const row = rowOf(choice.value);
      image.src = row.source;
      image.alt = `${photograph.name}: ${row.name}`;
      element(note).textContent = row.figures ? `${row.name}: ${row.figures}` : `${row.name}: as it was encoded`;
    }
    element("zoom").textContent = `${Math.round(100 * factor)} %`;
    document.querySelectorAll("#choice button").forEach((button, number) => {
      button.setAttribute("aria-pressed", String(number === current));
    });
  }

  // The point under the pointer, or the middle of the frame, stays where it is.
  function zoomTo(wanted, clientX, clientY) {
    const before = scale();
    const area = frame.getBoundingClientRect();
    const x = (clientX ?? area.left + area.width / 2) - area.left;
    const y = (clientY ?? area.top + area.height / 2) - area.top;
    const point = [(frame.scrollLeft + x) / before, (frame.scrollTop + y) / before];
    zoom = wanted && Math.min(8, Math.max(0.25, wanted));
    show();
    const after = scale();
    frame.scrollLeft = point[0] * after - x;
    frame.scrollTop = point[1] * after - y;
  }

  function cutAt(event) {
    const area = box.getBoundingClientRect();
    wipe.value = Math.min(100, Math.max(0, (100 * (event.clientX - area.left)) / area.width));
    show();
  }

  photographs.forEach((photograph, number) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = photograph.rows[0].source;
    image.alt = photograph.name;
    button.append(image);
    button.addEventListener("click", () => { current = number; show(); });
    element("choice").append(button);
  });
  for (const [choice, preset] of [[left, left.dataset.preset], [right, right.dataset.preset]]) {
    photographs[0].rows.forEach((row) => choice.add(new Option(row.name, row.name, false, row.name === preset)));
    choice.addEventListener("change", show);
  }
  document.querySelectorAll("[data-photograph]").forEach((link) => {
    link.addEventListener("click", () => { current = Number(link.dataset.photograph); show(); });
  });
  wipe.addEventListener("input", show);
  box.addEventListener("pointerdown", (event) => { box.setPointerCapture(event.pointerId); cutAt(event); });
  box.addEventListener("pointermove", (event) => { if (box.hasPointerCapture(event.pointerId)) cutAt(event); });
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // plain wheels scroll the page; pinching on a touch pad arrives with this key
    event.preventDefault();
    zoomTo(scale() * Math.exp(-event.deltaY / 200), event.clientX, event.clientY);
  }, { passive: false });
  element("larger").addEventListener("click", () => zoomTo(scale() * 2));
  element("smaller").addEventListener("click", () => zoomTo(scale() / 2));
  element("fit").addEventListener("click", () => zoomTo(0));
  window.addEventListener("resize", show);
  zoomTo(0);
})();

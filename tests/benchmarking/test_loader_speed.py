from ssdd.benchmarking.loader_speed import SIDES, loader_rate


def test_each_way_of_loading_has_a_rate():
    rows = loader_rate(im_size=16, images=32, rounds=1, show=False)
    assert [(row["source"], row["decoding"], row["packed"]) for row in rows] == [
        (source, decoding, packed or "no") for source, decoding, packed in SIDES
    ]
    assert all(row["images_per_second"] > 0 and row["per_core"] > 0 for row in rows)

"""generator -> generated_latents; finetuned, distilled, kl -> samples, teacher_samples, kl_samples -> sample_sheet."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.generate.nodes import (
    decode_kl_samples,
    decode_student_samples,
    decode_teacher_samples,
    draw_contact_sheet,
    draw_latents,
    take_kl,
)
from ssdd.stages.namespaces import stage

_SIZE = ["params:generate.count", "params:generate.batch_size"]


def create_pipeline() -> Pipeline:
    """The stage `generate`."""
    return stage(
        "generate",
        Node(
            draw_latents,
            ["generator", "params:generate", "params:runtime"],
            "generated_latents",
            name="draw_latents",
        ),
        Node(
            decode_student_samples,
            ["generated_latents", "distilled", *_SIZE, "params:generate.other_steps", "params:runtime"],
            "samples",
            name="decode_student_samples",
        ),
        Node(
            decode_teacher_samples,
            ["generated_latents", "finetuned", "params:generate.teacher_steps", *_SIZE, "params:runtime"],
            "teacher_samples",
            name="decode_teacher_samples",
        ),
        Node(take_kl, ["kl", "params:kl_samples"], "kl_of_samples", name="take_kl"),
        Node(
            decode_kl_samples,
            ["generated_latents", "kl_of_samples", *_SIZE, "params:runtime"],
            "kl_samples",
            name="decode_kl_samples",
        ),
        Node(draw_contact_sheet, ["samples", "params:generate.shown"], "sample_sheet", name="draw_contact_sheet"),
    )

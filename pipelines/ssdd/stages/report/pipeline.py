"""metrics, reconstructions, histories -> figures -> report."""

from kedro.pipeline import Node, Pipeline

from ssdd.reporting.report_page import write_report
from ssdd.stages.namespaces import stage
from ssdd.stages.report.nodes import draw_curves, draw_photographs, draw_reconstructions


def create_pipeline() -> Pipeline:
    """The stage `report`."""
    return stage(
        "report",
        Node(
            draw_reconstructions,
            ["teacher_reconstructions", "student_reconstructions", "reference_reconstructions"],
            ["reconstruction_figure", "extremes_figure"],
            name="draw_reconstructions",
        ),
        Node(
            draw_photographs,
            ["photographs", "photograph_metrics"],
            "photographs_figure",
            name="draw_photographs",
        ),
        Node(
            draw_curves,
            ["encoder_history", "pretrain_history", "finetune_history", "distill_history"],
            "curves_figure",
            name="draw_curves",
        ),
        Node(
            write_report,
            [
                "metrics",
                "photographs",
                "photograph_metrics",
                "reconstruction_figure",
                "extremes_figure",
                "curves_figure",
                "latent_stats",
                "comparison_section",
                "params:run_name",
            ],
            "report",
            name="write_report",
        ),
    )

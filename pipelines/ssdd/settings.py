"""The Kedro project's settings: hooks, configuration, the runner that knows what is stale.

See https://docs.kedro.org for what each of Kedro's own names does.
"""

import warnings

from kedro.framework.session import session as kedro_session

from ssdd.hooks import ProjectHooks
from ssdd.lineage.given import StartingPoint
from ssdd.lineage.runner import LineageRunner
from ssdd.stages.requirements import check_names, check_pretrained_networks

HOOKS = (ProjectHooks(),)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "base",
    # an environment states only what it changes
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}

# Which parameter stands for which checkpoint: --params teacher=<file | run | run@best | run@last>
# latent statistics follow the encoder that is trained here
_BEFORE_FINETUNING = ("train_encoder", "z_stats", "pretrain")
_BEFORE_TEACHER = (*_BEFORE_FINETUNING, "finetune")
STARTING_POINTS: dict[str, StartingPoint] = {
    "encoder_checkpoint": StartingPoint("encoder", best="encoder_best", replaces=("train_encoder",)),
    "checkpoint": StartingPoint("pretrained", best="pretrained_best", replaces=_BEFORE_FINETUNING),
    "teacher": StartingPoint("finetuned", best="finetuned_best", replaces=_BEFORE_TEACHER),
    "student": StartingPoint("distilled", best="distilled_best", replaces=("distill",)),
    "reference_statistics": StartingPoint("reference_statistics"),
}

# Called once with the nodes that may run, before a plan is shown or the first of them runs; the second only before a
# run: it finds, or downloads, what they need before hours are spent.
BEFORE_PLAN = check_names
BEFORE_RUN = check_pretrained_networks

# A session runs with the runner that its module names by default. SESSION_CLASS would cover the command line
# and notebooks, but not scripts that create a plain KedroSession.
vars(kedro_session)["SequentialRunner"] = LineageRunner

# Kedro's business with OmegaConf, no user's
warnings.filterwarnings("ignore", message="register_new_resolver", category=UserWarning)

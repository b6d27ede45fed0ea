"""The settings of the Kedro project: hooks, configuration, the rules of this project and its runner.

See https://docs.kedro.org for the meaning of Kedro's own names.
"""

import warnings

from kedro.framework.session import session as kedro_session

from ssdd.datasets.session_catalog import SessionCatalog
from ssdd.hooks import ProjectHooks
from ssdd.integrations.encoder_import import provided_encoder
from ssdd.lineage.project_folder import use_project_logging
from ssdd.lineage.project_rules import ProjectRules, ReplaceableDataset
from ssdd.lineage.runner import LineageRunner
from ssdd.parameters import PretrainedNetworks
from ssdd.stages.requirements import check_names, check_pretrained_networks

# --params teacher=<file | run | run@best | run@last> provides a checkpoint, and the stages that would make it are left
# out. Latent statistics are those of an encoder that is trained here, so they go with it.
_BEFORE_FINETUNING = ("train_encoder", "z_stats", "pretrain")
_BEFORE_TEACHER = (*_BEFORE_FINETUNING, "finetune")
RULES = ProjectRules(
    replaceable={
        "encoder_checkpoint": ReplaceableDataset(
            "encoder", best="encoder_best", replaces=("train_encoder",), convert=provided_encoder
        ),
        "checkpoint": ReplaceableDataset("pretrained", best="pretrained_best", replaces=_BEFORE_FINETUNING),
        "teacher": ReplaceableDataset("finetuned", best="finetuned_best", replaces=_BEFORE_TEACHER),
        "student": ReplaceableDataset("distilled", best="distilled_best", replaces=("distill",)),
        "reference_statistics": ReplaceableDataset("reference_statistics"),
    },
    paths=frozenset({"data.root", *(f"pretrained_networks.{name}.file" for name in PretrainedNetworks.model_fields)}),
    switches={
        "kl_adversary.enabled": frozenset({"train_kl.train_kl_adversarial", "compare.evaluate_kl_adversarial"}),
        "kl_samples.enabled": frozenset({"generate.take_kl", "generate.decode_kl_samples"}),
    },
    before_plan=check_names,
    before_run=check_pretrained_networks,
)

HOOKS = (ProjectHooks(RULES), RULES)  # the rules have no hooks; the runner finds them among the session's plugins
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)  # the project sends nothing anywhere
DATA_CATALOG_CLASS = SessionCatalog
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "base",
    # an environment states only its changes
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}

# Without the argument `runner`, a session constructs the class that its module calls SequentialRunner. No setting and
# no hook changes that. SESSION_CLASS has an effect on the command line and in notebooks, but a script that creates a
# plain KedroSession would overwrite artefacts without stamps. Nearly every test in tests/lineage runs such a session.
vars(kedro_session)["SequentialRunner"] = LineageRunner

use_project_logging()

# a warning about Kedro's own use of OmegaConf, which users cannot correct
warnings.filterwarnings("ignore", message="register_new_resolver", category=UserWarning)

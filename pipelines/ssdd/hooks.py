"""The hooks of every run: parameters are checked before it, and Kedro-Viz's records are kept whole after it."""

from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol

from ssdd.lineage.parameter_checks import check_environment, check_parameters
from ssdd.lineage.project_folder import in_project
from ssdd.lineage.project_rules import ProjectRules
from ssdd.lineage.runner import LineageRunner
from ssdd.lineage.viz_records import begin_record, keep_statistics, read_statistics
from ssdd.old_parameters import rename_old_parameters
from ssdd.runs import check_run_name


class ProjectHooks:
    """The hooks of one project. Sessions follow one another, so the state kept here is that of the last one.

    Args:
        rules: the project's rules, whose parameters are known although no node takes them.

    Attributes:
        project: the folder of the session's project, which need not be the working directory's.
    """

    def __init__(self, rules: ProjectRules) -> None:
        self._rules = rules

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Refuses an unknown environment, a run name that is no folder name, and unknown parameters."""
        self.project = Path(context.project_path)
        check_environment(Path(str(context.config_loader.conf_source)), context.env)
        parameters = rename_old_parameters(context.config_loader["parameters"])
        context.config_loader["parameters"] = parameters  # Kedro reads its own copy of them for the nodes later
        if Path.cwd() != self.project:  # a notebook or a script in another folder
            parameters = in_project(parameters, self.project, self._rules.paths)
            context.config_loader["parameters"] = parameters
        if "run_name" in parameters:
            check_run_name(parameters["run_name"])
        # All pipelines and not only the chosen one: parameters.yml serves them all.
        check_parameters(parameters, dict(pipelines), self._rules.replaceable)

    @hook_impl(tryfirst=True)  # before Kedro-Viz, which reads the runner's name and begins its record here
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Refuses a runner that would leave artefacts without stamps."""
        if run_params.get("runner") in (None, "None"):  # a session's default, which Kedro does not name
            run_params["runner"] = str(LineageRunner())
        if LineageRunner.__name__ not in run_params["runner"]:
            raise ValueError(
                f"expected this project's own runner (the default), got {run_params['runner']}: "
                "leave --runner out; several processes are a matter of --params runtime.processes=N"
            )
        begin_record(catalog)
        self._statistics = read_statistics(self.project)

    @hook_impl(trylast=True)  # after Kedro-Viz has written the statistics of this run alone
    def after_pipeline_run(self) -> None:
        """Puts back Kedro-Viz's statistics of data that this run did not touch."""
        keep_statistics(self.project, self._statistics)

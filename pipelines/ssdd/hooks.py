"""What happens around every run: parameters are checked first, Kedro-Viz's records are kept whole after."""

from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from pluggy import PluginManager

from ssdd.lineage.parameter_checks import check_environment, check_parameters
from ssdd.lineage.runner import LineageRunner, starting_points
from ssdd.lineage.viz_status import forget_events, keep_statistics, read_statistics
from ssdd.parameters import rename_old_parameters
from ssdd.runs import check_run_name


class ProjectHooks:
    """The hooks of one project; sessions follow one another, so what is kept is that of the last one."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Refuses an unknown environment, a run name that is no folder name, parameters nobody takes."""
        self._project = Path(context.project_path)
        self._hook_manager: PluginManager = context._hook_manager
        check_environment(Path(str(context.config_loader.conf_source)), context.env)
        parameters = rename_old_parameters(context.config_loader["parameters"])
        context.config_loader["parameters"] = parameters  # Kedro reads its own copy of them for the nodes later
        if "run_name" in parameters:
            check_run_name(parameters["run_name"])
        check_parameters(parameters, dict(pipelines), starting_points())

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Refuses a runner that would leave artefacts without stamps."""
        if run_params.get("runner") in (None, "None"):  # a session's default, which Kedro does not name
            run_params["runner"] = str(LineageRunner())
        if LineageRunner.__name__ not in run_params["runner"]:
            raise ValueError(
                f"expected this project's own runner (the default), got {run_params['runner']}: "
                "leave --runner out; several processes are a matter of --params runtime.processes=N"
            )
        forget_events(self._hook_manager)
        self._statistics = read_statistics(self._project)

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Puts back Kedro-Viz's statistics of data that were left alone."""
        keep_statistics(self._project, self._statistics)

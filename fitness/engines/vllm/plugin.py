"""Entry point `vllm.general_plugins`: vLLM calls it in each of its processes."""

from fitness.engines.vllm.requirements import SUPPORTED, installed_version


def register() -> None:
    """Make the weight-transfer engine known to vLLM. May be called any number of times.

    Whoever has evomerge installed beside another vLLM is left in peace: nothing is imported there.
    """
    version = installed_version()
    if version is not None and version.startswith(SUPPORTED):
        from fitness.engines.vllm import internals

        internals.register()

"""Settings of the site that jobs run on; no result depends on them."""

from pydantic import Field

from slidemill.config.base import Section


class SiteConfig(Section):
    """What jobs find at your site, for those who do not use the driver's virtual environment."""

    modules: tuple[str, ...] = Field(
        (),
        description="Environment modules that every job loads, with --sdm env-modules; all others "
        "are purged.",
    )
    gpu_modules: tuple[str, ...] = Field(
        (), description="Further ones for jobs on a GPU, such as cuda/12.4."
    )
    container: str | None = Field(
        None,
        description="Image that jobs run in, with --sdm apptainer: a .sif file or an address; "
        "docs/running-on-slurm.md says how to build one.",
    )

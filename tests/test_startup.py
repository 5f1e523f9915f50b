"""Nothing heavy is imported before a job knows that it needs it.

The workflow is parsed again in every job of a cluster, and people wait for `--help`. (NumPy is not
on the list: a tenth of a second, and the settings of tiles live beside their arithmetic.)
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "cv2", "h5py", "huggingface_hub", "imagecodecs", "lightly", "matplotlib", "openslide",
    "pandas", "PIL", "pyarrow", "pydicom", "scipy", "shapely", "simplejpeg", "skimage", "sklearn",
    "tifffile", "timm", "torch", "torchvision", "transformers", "wsidicom",
)  # fmt: skip
REPORT = f"""
import sys
print("heavy:", *(name for name in {HEAVY!r} if name in sys.modules))
"""
PLAN = """
import re, yaml
from pathlib import Path
source = Path(r"{common}").read_text()
for line in re.findall(r"^from slidemill\\S* import .*$", source, re.MULTILINE):
    exec(line)
plan = plan_workflow(yaml.safe_load(Path("config.yaml").read_text()), Path(r"{root}/workflow"))
plan.bucket_digests, plan.slide_digests, plan.sheet_digest()
assert plan.encoders and plan.pretrain and plan.cells
"""
HELP = """
from slidemill.cli import main
try:
    main()
except SystemExit as ended:
    assert ended.code == 0, ended.code
"""
COMMANDS = (
    [], ["cohort"], ["tissue"], ["tiles"], ["features"], ["splits"], ["pretrain"], ["evaluate"],
    ["report"], ["demo"], ["status"], ["failed"], ["verify"], ["summary"], ["catalog"], ["gc"],
    ["diff"], ["encoders"], ["export"], ["import"],
)  # fmt: skip


def run(code, *arguments, folder=ROOT):
    """What a program prints, and the heavy packages that it has imported when it ends."""
    command = [sys.executable, "-c", code + REPORT, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return "\n".join(printed), last.removeprefix("heavy:").split()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_that_imports_nothing_heavy(command):
    printed, heavy = run(HELP, *command, "--help")
    assert "Usage" in printed
    assert heavy == []


def test_parsing_the_workflow_imports_nothing_heavy(tmp_path):
    rows = "".join(f"s{i}\ts{i}.svs\tp{i}\teast\t{i % 2}\n" for i in range(8))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "slides.tsv").write_text(
        "slide_id\tpath\tpatient_id\tsite\tlabel\n" + rows
    )
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    common = ROOT / "workflow" / "rules" / "common.smk"
    assert run(PLAN.format(common=common, root=ROOT), folder=tmp_path)[1] == []


def test_what_is_imported_is_seen():
    assert run("import h5py")[1] == ["h5py"]

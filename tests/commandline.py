"""The command line called as a user calls it, and a recipe that trains in seconds."""

from typer.testing import CliRunner

from app.cli import app

TINY_RECIPE = """
name = "tiny"
task = "TASK"
kept = "KEPT"
holdout = 0.1
learning_rate = 5e-3
[encoder]
widths = [8, 12, 16, 24, 32]
[[stages]]
epochs = 4
height = 96
width = 96
batch = 8
[[branches]]
name = "a"
widths = [16, 16]
[[branches]]
name = "b"
widths = [16, 16]
"""


def okdhp(*arguments: object) -> str:
    """What the command printed; it must have succeeded."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """The one line, beside progress bars, of a command that stops for what its user can mend."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("okdhp: ")]
    return line

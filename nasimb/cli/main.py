"""The command line: parse, one call a command, print. Progress goes to stderr, the answer to stdout."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Any, NoReturn

import typer

from nasimb.cli.adapt import adapt
from nasimb.cli.bench import bench
from nasimb.cli.evaluate import evaluate
from nasimb.cli.export import export
from nasimb.cli.extend import extend
from nasimb.cli.head import head
from nasimb.cli.look import inspect, report, status
from nasimb.cli.monitor import monitor
from nasimb.cli.pareto import pareto
from nasimb.cli.plan import plan
from nasimb.cli.predict import predict
from nasimb.cli.retrain import retrain
from nasimb.cli.search import search
from nasimb.cli.supernet import supernet_train
from nasimb.cli.worker import serve, worker
from nasimb.durable import NO_SPACE, disk_full
from nasimb.errors import Elsewhere, NasimbError
from nasimb.secrets import without_passwords
from nasimb.visible import visible

app = typer.Typer(
    name="nasimb",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Find the best network your budget can buy for images whose classes are badly imbalanced.

    `nasimb search --budget 3min` runs the whole thing on embedded handwritten digits and prints what it found.

    `nasimb search --data folder:my_photos/ --budget 8gpu-h` does it for your photos, one folder a class.
    """,
    epilog="Exit codes: 0 done, 1 the work failed, 2 what was asked is wrong, 130/143 interrupted and resumable.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at images before searching.")
supernet_app = typer.Typer(no_args_is_help=True, help="Train a super-network once, search with it often.")
storage_app = typer.Typer(no_args_is_help=True, help="Where the processes of a search meet.")
app.add_typer(data_app, name="data")
app.add_typer(supernet_app, name="supernet")
app.add_typer(storage_app, name="storage")

# typer carries its own copy of click from 0.25 on and depends on the package before; this is the one it raises.
USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app.command()(search)
app.command()(plan)
app.command()(extend)
data_app.command("inspect")(inspect)
app.command()(status)
app.command()(report)
app.command()(pareto)
app.command()(head)
app.command()(retrain)
app.command()(predict)
app.command()(evaluate)
app.command()(export)
app.command()(adapt)
app.command()(monitor)
supernet_app.command("train")(supernet_train)
app.command()(worker)
storage_app.command("serve")(serve)
app.command()(bench)


def main() -> None:
    """Entry point of the `nasimb` command: errors in one line on stderr, exit codes as documented."""
    # Before torch is imported. OpenMP's threads spin for milliseconds where they wait: on a busy machine that is thirty
    # times slower than to sleep, on a quiet one to sleep at once is twice as slow. This lies between (measured).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    try:
        # The object of every command is when it began: budgets pay from there on, imports of torch included.
        code = app(prog_name="nasimb", standalone_mode=False, obj=time.monotonic())
    except Elsewhere as error:  # the process that failed has said it
        sys.exit(error.exit_code)
    except NasimbError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(130)
    except USAGE_ERROR as error:
        _show_usage_error(error)
    except OSError as error:
        if error.errno in NO_SPACE:
            _fail(str(disk_full(error.filename or "a file", error)), 1)
        rule = f"files must be readable and writable; got {error}."
        _fail(f"{rule} Mend that, and give the same command again to go on.", 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)  # without `standalone_mode`, an exit code is returned


def _fail(message: str, exit_code: int) -> NoReturn:
    """One line, whatever the message quotes."""
    print("nasimb: " + visible(without_passwords(" ".join(message.splitlines()))), file=sys.stderr)
    sys.exit(exit_code)


def _show_usage_error(error: Any) -> NoReturn:
    """A misspelt option or command: what is wrong, and where the right ones stand."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help())
        sys.exit(2)
    command = "nasimb" if context is None else context.command_path
    message = error.format_message().strip().rstrip(".")
    _fail(f"{message}. All options: {command} --help", 2)


if __name__ == "__main__":
    main()

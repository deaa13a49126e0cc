"""The command line: parse, one call a command, print. Progress goes to stderr, the answer to stdout."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from nasimb.bench_cli import bench
from nasimb.display import watching
from nasimb.errors import NasimbError

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
app.add_typer(data_app, name="data")
app.add_typer(supernet_app, name="supernet")
app.command()(bench)

# typer carries its own copy of click from 0.25 on and depends on the package before; this is the one it raises.
USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

WHAT, HOW, RUN = "What to search", "How to search", "The run"
DATA_FORMS = "folder:DIR, list:FILE, arrays:FILE.npz, cifar10:DIR, cifar100:DIR or digits"


class Sampling(StrEnum):
    """How training images are drawn."""

    natural = "natural"
    balanced = "balanced"
    sqrt = "sqrt"


class Format(StrEnum):
    """How a report is printed."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    svg = "svg"


@app.command()
def search(
    data: Annotated[str | None, typer.Option(help=f"Imbalanced images: {DATA_FORMS}.", rich_help_panel=WHAT)] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help='Balanced images that train the super-network (as --data), or "target": the imbalanced images '
            "themselves. Default: the data set's own balanced part (digits), else target.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a super-network trained before (nasimb supernet train); its share of the budget goes to "
            "the search.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    imbalance_factor: Annotated[
        float | None,
        typer.Option(
            help="Make the target long-tailed by leaving images out: largest class / smallest, e.g. 100. Default: as "
            "it is (digits: 20).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Shape of that long tail: exponential or step.", rich_help_panel=WHAT)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What it may cost: 8gpu-h, 2cpu-h, 30min, 200trials, or several joined by commas (first reached "
            "stops). Default 3min.",
            rich_help_panel=HOW,
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Networks to choose from: digits-resnet, cifar-resnet, or a path ending in .yaml. Default: by the "
            "data.",
            rich_help_panel=HOW,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="balanced_accuracy (default), few, worst_recall, g_mean, macro_f1, accuracy; with ,macs or ,params a "
            "Pareto search of accuracy against cost.",
            rich_help_panel=HOW,
        ),
    ] = None,
    max_macs: Annotated[
        str | None, typer.Option(help="Most multiply-accumulates an image, e.g. 50M.", rich_help_panel=HOW)
    ] = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters, e.g. 300K.", rich_help_panel=HOW)] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe (default), nsga2 or random.", rich_help_panel=HOW)] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(
            help="How often the super-network's training draws each class: as often as it is (natural), all alike "
            "(balanced), or between (sqrt). Default: balanced; natural on the target itself.",
            rich_help_panel=HOW,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images that set BN statistics: source (default), target-natural, target-balanced; several joined by "
            "commas are searched.",
            rich_help_panel=HOW,
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="What ranks candidates: leave-one-out over all images, or holdout. auto (default): leave-one-out "
            "unless the super-network has seen them.",
            rich_help_panel=HOW,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random. Default 0.", rich_help_panel=RUN)] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; the same command on it resumes. Default: runs/ and a name from data, budget and seed.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A YAML file of options, or a shipped one by name; the options here win.", rich_help_panel=RUN
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other option, as RUN/config.yaml names it: --set heads.folds=3 --set training.batch_size=128.",
            rich_help_panel=RUN,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (default: a GPU if there is one), cpu, cuda, cuda:1.", rich_help_panel=RUN)
    ] = None,
    skip_bad_images: Annotated[
        bool | None,
        typer.Option(
            "--skip-bad-images",
            help="Leave unreadable files out and count them, instead of stopping.",
            rich_help_panel=RUN,
        ),
    ] = None,
    download: Annotated[
        bool | None, typer.Option("--download", help="Allow CIFAR to be downloaded.", rich_help_panel=RUN)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json instead of tables.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Search the best network for imbalanced images within a budget: --budget 3min tries it on embedded digits.

    A super-network is trained on balanced images and frozen; Optuna samples subnets of it; each is scored with a
    reweighted linear head on all of your images. The winner, a table and the spend are left in the run folder.
    The same command again resumes an interrupted run.
    """
    from nasimb.config import load_config
    from nasimb.pipeline import run_search
    from nasimb.report.show import print_report

    options: dict[str, Any] = {
        "data": data, "source": source, "supernet": None if supernet is None else str(supernet),
        "imbalance_factor": imbalance_factor, "profile": profile, "budget": budget, "space": space,
        "objective": objective, "max_macs": max_macs, "max_params": max_params, "sampler": sampler,
        "calibrations": None if calibration is None else calibration.split(","), "validation": validation,
        "seed": seed, "device": device, "skip_bad_images": skip_bad_images, "download": download,
    }  # fmt: skip
    more = [] if sampling is None else [f"training.sampling={sampling.value}"]
    chosen = load_config(config, options, [*more, *(assign or [])])
    folder = run or Path("runs") / chosen.run_name()
    with watching() as (watcher, stop):
        result = run_search(chosen, folder, watcher=watcher, stop=stop)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print_report([folder], Format.terminal)


@data_app.command("inspect")
def inspect(
    data: Annotated[str, typer.Argument(help=f"{DATA_FORMS}; a bare folder means folder:DIR.")],
    download: Annotated[bool, typer.Option("--download", help="Allow CIFAR to be downloaded.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Count the classes of a data set, and list every problem that would stop a search.

    Shows the images per class and split, the imbalance factor and the many-, medium- and few-shot groups. Exit code 2
    if there is a problem.
    """
    from nasimb.data import parse_dataset
    from nasimb.data.base import LoadRequest
    from nasimb.data.inspect import inspect_dataset

    named = f"folder:{data}" if Path(data).is_dir() else data
    found = inspect_dataset(parse_dataset(named), LoadRequest(size=32, download=download))
    if as_json:
        values = {
            "classes": json.loads(found.table.to_json(orient="records")),
            "imbalance_factor": found.imbalance_factor, "groups": found.groups, "channels": found.channels,
            "fingerprints": found.fingerprints, "skipped": list(found.skipped), "problems": list(found.problems),
            "remarks": list(found.remarks),
        }  # fmt: skip
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        from nasimb.report.show import print_inspection

        print_inspection(found, title=named)
    raise typer.Exit(2 if found.problems else 0)


@app.command()
def status(run: Annotated[Path, typer.Argument(help="A run folder, running, interrupted or finished.")]) -> None:
    """Say where a run stands: spend by phase, trials, and the best so far."""
    from nasimb.report import Run
    from nasimb.report.status import status_lines

    for line in status_lines(Run.read(run)):
        print(line)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more finished run folders.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="terminal, markdown, csv (one row a model, plain numbers), json (each result.json), svg (a picture).",
        ),
    ] = Format.terminal,
) -> None:
    """Tables of a finished run, or of several side by side.

    One run: the winner against every baseline with 95 % intervals (n.s.: not significant), the Pareto set of cost and
    accuracy, the spend by phase, and what was done to the data. Several: one line each.
    """
    from nasimb.report.show import print_report

    print_report(runs, form)


@app.command()
def head(
    source: Annotated[Path, typer.Option("--from", help="A finished run, or a model folder.")],
    data: Annotated[str, typer.Option(help=f"The new images: {DATA_FORMS}.")],
    loss: Annotated[
        str,
        typer.Option(
            help="balanced_softmax, inverse_frequency, class_balanced, logit_adjusted, ldam, focal, deferred, "
            "cross_entropy; or gda, ridge."
        ),
    ] = "balanced_softmax",
    imbalance_factor: Annotated[
        float | None, typer.Option(help="Make the new images long-tailed: largest class / smallest.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Shape of that long tail: exponential or step.")] = "exponential",
    seed: Annotated[int, typer.Option(help="Of splits, folds and the long tail.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where the new model goes. Default: the next free FROM/heads/NUMBER.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave unreadable files out and count them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Retrain only the head of a finished model on new long-tailed images, with other classes if need be.

    The network stays as it is, to the bit. Printed are the old head, a plain and the reweighted new head, on the new
    test images; the new model is saved beside the old one, never over it.
    """
    from nasimb.phases.prepare import choose_device
    from nasimb.report.show import stdout, terminal_table
    from nasimb.retrain import head_table, retrain_head

    result = retrain_head(
        source, data, loss, imbalance_factor=imbalance_factor, profile=profile, seed=seed, out=out,
        device=choose_device(device), skip_bad_images=skip_bad_images,
    )  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for note in result["notes"]:
        print(f"note: {note}")
    stdout().print(terminal_table(head_table(result), title=f"{data}, on {result['test_images']} test images"))
    print(f"saved in {result['saved']}")


@supernet_app.command("train")
def supernet_train(
    source: Annotated[str, typer.Option(help=f"Balanced images: {DATA_FORMS}.")],
    out: Annotated[Path, typer.Option(help="Folder the super-network is left in; the same command on it resumes.")],
    budget: Annotated[str, typer.Option(help="What it may cost: 4gpu-h, 30min, 2cpu-h.")],
    space: Annotated[
        str, typer.Option(help="Networks it holds: digits-resnet, cifar-resnet, or a path ending in .yaml.")
    ] = "cifar-resnet",
    sampling: Annotated[
        Sampling, typer.Option(help="How often classes are drawn: as they are, all alike, or between.")
    ] = Sampling.balanced,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Allow CIFAR to be downloaded.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any option of the training: --set batch_size=128. Repeatable.")
    ] = None,
) -> None:
    """Train a super-network on balanced images and keep it for any number of searches (--supernet DIR).

    The same command again resumes an interrupted training.
    """
    from nasimb.config import load_config
    from nasimb.pipeline import train_supernet

    assignments = [f"training.sampling={sampling.value}", *(f"training.{text}" for text in assign or [])]
    options = {"data": source, "source": source, "space": space, "budget": budget, "seed": seed, "device": device,
               "download": download}  # fmt: skip
    config = load_config(None, options, assignments)
    with watching() as (watcher, stop):
        info = train_supernet(config, out, watcher=watcher, stop=stop)
    print(f"{out}: {info['steps']} steps on {source}, last loss {info.get('last_loss')}")
    print(f"nasimb search --supernet {out} --data ... --budget ...")


def main() -> None:
    """Entry point of the `nasimb` command: errors in one line on stderr, exit codes as documented."""
    # Before torch is imported. OpenMP's threads spin for milliseconds where they wait: on a busy machine that is thirty
    # times slower than to sleep, on a quiet one to sleep at once is twice as slow. This lies between (measured).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        code = app(prog_name="nasimb", standalone_mode=False)
    except NasimbError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(130)
    except USAGE_ERROR as error:
        _show_usage_error(error)
    except OSError as error:
        rule = f"files must be readable and writable; got {error}."
        _fail(f"{rule} Mend that, and give the same command again to go on.", 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)  # without `standalone_mode`, an exit code is returned


def _fail(message: str, exit_code: int) -> NoReturn:
    """One line, whatever the message quotes."""
    print("nasimb: " + " ".join(message.splitlines()), file=sys.stderr)
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

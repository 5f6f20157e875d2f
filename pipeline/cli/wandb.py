"""`pipeline wandb push | dashboard`."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.cli.arguments import RequestParser
from pipeline.config import WandbConfig
from pipeline.console import plural
from pipeline.errors import RequestError

USAGE = """\
usage: pipeline wandb push STUDY        finished runs -> W&B, each once; repeated, what W&B lacks
       pipeline wandb dashboard STUDY   a saved workspace and a report: LR transfer, exponents, edges, loss curves,
                                        coordinate check, stability; --out FILE.json writes it and sends nothing

STUDY is a study's folder, such as runs/quick; pipeline wandb push --help lists the flags."""


def main(argv: Sequence[str]) -> int:
    """0: done; 1: W&B lacks something. Raises `RequestError`."""
    verbs: dict[str, Callable[[Sequence[str]], int]] = {"push": _push, "dashboard": _dashboard}
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if argv[0] not in verbs:
        raise RequestError(f"pipeline wandb {argv[0]}: choose one of {', '.join(verbs)}")
    return verbs[argv[0]](argv[1:])


def _parser(verb: str, description: str) -> RequestParser:
    parser = RequestParser(prog=f"pipeline wandb {verb}", description=description, allow_abbrev=False)
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder, such as runs/quick")
    parser.add_argument("--project", help="project in W&B (default: the runs' own, WANDB_PROJECT, width-scaling)")
    parser.add_argument("--entity", help="user or team (default: the runs' own, WANDB_ENTITY, who is logged in)")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    return parser


def _push(argv: Sequence[str]) -> int:
    parser = _parser("push", "Send the finished and the failed runs of a study to W&B, whatever it lacks of them.")
    parser.add_argument("--tags", metavar="TAG,...", help="tags of the runs (default: their own, else WANDB_TAGS)")
    arguments = parser.parse_args(argv)
    tags = tuple(tag.strip() for tag in (arguments.tags or "").split(",") if tag.strip())
    over = WandbConfig(project=arguments.project, entity=arguments.entity, tags=tags)
    over.check("--")
    from pipeline.mirrors.push import push

    pushed = push(arguments.study, over, lambda line: None if arguments.json else print(line, flush=True))
    if arguments.json:
        print(json.dumps(vars(pushed), indent=2))
    else:
        for name, why in {**pushed.left_out, **pushed.incomplete}.items():
            print(f"{'incomplete' if name in pushed.incomplete else 'left out'}: {name}: {why}")
        sent = f"{plural(len(pushed.sent), 'run')} sent, {len(pushed.there)} there before"
        print(f"{sent}: {', '.join(pushed.urls)}")
        if pushed.incomplete:
            print(f"W&B lacks {plural(len(pushed.incomplete), 'run')}; the same command sends what is missing")
    return int(bool(pushed.incomplete))


def _dashboard(argv: Sequence[str]) -> int:
    parser = _parser("dashboard", "A workspace per family of curves, and a report of a study, in W&B.")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write what W&B would be sent, and send nothing")
    arguments = parser.parse_args(argv)
    over = WandbConfig(project=arguments.project, entity=arguments.entity)
    over.check("--")
    from pipeline.analysis.page import words
    from pipeline.analysis.page.tables import write_text
    from pipeline.analysis.page.wandb_panels import dashboard, modules, save
    from pipeline.library import asked
    from pipeline.mirrors.service import client_of_wandb
    from pipeline.mirrors.to_wandb import Place
    from pipeline.run.directory import RunDir
    from pipeline.run.study import require_study

    modules()  # before the fit, which takes its time
    require_study(arguments.study)
    client = None if arguments.out else client_of_wandb()
    fitted = asked(str(arguments.study)).fit()
    first = RunDir(arguments.study / str(fitted.study.runs["run"].iloc[0])).config()
    place = Place.of(first)
    project, entity = over.project or place.project, over.entity or place.entity
    if client is None:
        made = dashboard(fitted, project, entity or "")
        urls = {"file": str(write_text(arguments.out, made.content()))}
    else:
        entity = entity or str(client.default_entity)
        made = dashboard(fitted, project, entity)
        memory = arguments.study / "wandb.json"
        known = _remembered(memory)
        here = f"{entity}/{project}"
        urls = dict(known.get(here, {}))
        for name, url in save(made, dict(urls), lambda line: print(line, file=sys.stderr)):
            urls[name] = url
            write_text(memory, json.dumps({**known, here: urls}, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(urls, indent=2))
    else:
        print(*(words.plain(f"{name}: {url}") for name, url in urls.items()), sep="\n")
    return 0


def _remembered(memory: Path) -> dict[str, dict[str, str]]:
    """What earlier dashboards of the study are, by project and name. Raises `RequestError` for a damaged file."""
    try:
        content: Any = json.loads(memory.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RequestError(f"{memory} is damaged ({error}): delete it, and new dashboards are made") from None
    return dict(content)

"""`pipeline completion`: a script by which bash or zsh completes verbs, flags and the values of those that have few."""

import contextlib
import io
import re
from collections.abc import Sequence
from importlib import import_module

from pipeline.cli import main as cli
from pipeline.errors import RequestError
from pipeline.parameterization.rules import TABLE
from pipeline.recipes import shipped

SHELLS = {"bash": "", "zsh": "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"}
"""Shell -> what it needs before the script."""

_HOW = {
    "bash": "pipeline completion bash > ~/.local/share/bash-completion/completions/pipeline",
    "zsh": "pipeline completion zsh > ~/.pipeline-completion.zsh, and source it in ~/.zshrc",
}
_SCRIPT = """{before}_pipeline() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="{verbs}"
  else case "$prev" in
{values}
    *) case "${{COMP_WORDS[1]}}" in
{flags}
    esac ;;
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [[ "$cur" == -* || "$COMP_CWORD" -eq 1 ]] || COMPREPLY+=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _pipeline pipeline"""


def main(argv: Sequence[str]) -> int:
    """`pipeline completion bash | zsh`. Raises `RequestError`."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: pipeline completion bash | zsh\n", *_HOW.values(), sep="\n")
        raise SystemExit(0)
    if argv[0] not in SHELLS or len(argv) > 1:
        raise RequestError(f"completion is for {' or '.join(SHELLS)}, got {' '.join(argv)!r}")
    values: dict[str, str] = {}
    flags: dict[str, str] = {}
    for verb in cli.VERBS:
        text = _help(verb)
        flags[verb] = " ".join(dict.fromkeys(re.findall(r"(?<![\w-])--\w[\w.]*", text)))
        values |= dict(re.findall(r"^ +(--[\w.]+) ([\w.-]+(?:\|[\w.-]+)+)$", text, re.MULTILINE))
    flags["sweep"] += " status"
    flags["data"] += " prepare info verify"
    flags["wandb"] += " push dashboard --project --entity --tags --json"
    flags["coordcheck"] += f" {flags['sweep']}"
    flags["completion"] += " ".join(SHELLS)
    values |= {"--config": "|".join(shipped("model_configs")), "--data": "|".join(shipped("data"))}
    values |= dict.fromkeys(("--param", "--params", "--expect"), "|".join(TABLE))
    print(_SCRIPT.format(
        before=SHELLS[argv[0]],
        verbs=" ".join(cli.VERBS),
        values="\n".join(f'    {flag}) words="{few.replace("|", " ")}" ;;' for flag, few in values.items()),
        flags="\n".join(f'      {verb}) words="{its} --help" ;;' for verb, its in flags.items()),
    ))  # fmt: skip
    return 0


def _help(verb: str) -> str:
    """What the verb says of itself."""
    said = io.StringIO()
    every = ["all"] if verb in ("train", "sweep") else []
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        import_module(cli.VERBS[verb][0]).main(["--help", *every])
    return said.getvalue()

# shellcheck shell=bash disable=SC2034 # who sources this uses what it leaves
# Sourced by the job scripts with the arguments that `pipeline sweep --launcher slurm` gave them: loads modules, sources
# the site's setup, exports its environment. Leaves python, max_requeues, and in `arguments` what follows `--`.
# Everything stays an argument: no value is ever read as shell code.
modules=() environment=() arguments=() setup='' python='' max_requeues=0
while (($#)) && [[ $1 != -- ]]; do
    case $1 in
        --python) python=$2 ;;
        --max_requeues) max_requeues=$2 ;;
        --module) modules+=("$2") ;;
        --setup) setup=$2 ;;
        --env) environment+=("$2") ;;
        *)
            echo "pipeline: error: unknown argument $1 of the job script" >&2
            exit 2
            ;;
    esac
    shift 2
done
arguments=("${@:2}")
set -- # site scripts must not take our arguments for theirs

if ((${#modules[@]})); then
    # `module` is a function of login shells, and a batch script is none
    for init in "${LMOD_PKG:-/usr/share/lmod/lmod}/init/bash" "${MODULESHOME:-/usr/share/modules}/init/bash"; do
        type -t module >/dev/null && break
        # shellcheck source=/dev/null
        [[ -r $init ]] && source "$init"
    done
    for name in "${modules[@]}"; do
        module load "$name" || { echo "pipeline: error: cannot load the module $name" >&2; exit 2; }
    done
fi
if [[ $setup ]]; then
    # shellcheck source=/dev/null
    source "$setup" || { echo "pipeline: error: $setup failed" >&2; exit 2; }
fi
for assignment in "${environment[@]}"; do
    export "${assignment?}"
done

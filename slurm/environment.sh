# shellcheck shell=bash disable=SC2034 # who sources this uses what it leaves
# Sourced by the job scripts with the arguments that `pipeline sweep --launcher slurm` gave them. Leaves python,
# max_requeues, in `arguments` what follows `--`, and the function `prepared`.
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

# Loads the modules, sources the site's setup and becomes the command, with the profile's environment and in this folder.
# For a subshell, so that nothing which a site does to its shell reaches the job script: variables, options, functions.
prepared() {
    readonly pipeline_folder=$PWD pipeline_command=(env "${environment[@]}" "$@")
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
    cd -- "$pipeline_folder" && exec "${pipeline_command[@]}"
}

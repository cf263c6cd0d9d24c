"""The completion scripts: each asks ``PROGRAM __complete`` and shows the answer its way."""

from __future__ import annotations

_BASH = r"""# bash completion of PROGRAM; load it with: source <(PROGRAM completion bash)
_PROGRAM_complete() {
    local -a words=()
    local rest=${COMP_LINE:0:COMP_POINT} piece i
    # bash cuts words at : and =, which names of images and flags contain
    for ((i = 0; i <= COMP_CWORD; i++)); do
        piece=${COMP_WORDS[i]}
        if [[ $i -eq 0 || $rest == [[:space:]]* ]]; then
            words+=("$piece")
        else
            words[${#words[@]}-1]+=$piece
        fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        rest=${rest#"$piece"}
    done
    local current=${words[${#words[@]}-1]} program=${words[0]/#\~/$HOME}
    local lines line rule
    lines=$("$program" __complete "${words[@]:1}" 2>/dev/null) || return
    rule=${lines##*:}
    COMPREPLY=()
    local cut=${current%"${current##*[:=]}"}
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        [[ $line == "$current"* ]] && COMPREPLY+=("${line#"$cut"}")
    done <<<"${lines%:*}"
    ((rule & 2)) && compopt -o nospace 2>/dev/null
    if ((!(rule & 4))); then
        compopt -o default -o bashdefault 2>/dev/null
    fi
}
complete -F _PROGRAM_complete PROGRAM"""

_ZSH = r"""#compdef PROGRAM
# zsh completion of PROGRAM; load it with: source <(PROGRAM completion zsh)
_PROGRAM() {
    local -a lines spaced
    local line value about
    local -i rule
    lines=("${(@f)$("${(Q)words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    [[ ${lines[-1]} == :* ]] || return 1
    rule=${lines[-1]#:}
    for line in "${(@)lines[1,-2]}"; do
        [[ -n $line ]] || continue
        value=${line%%$'\t'*}
        about=${line#"$value"}
        spaced+=("${value//:/\\:}${about:+:${about#$'\t'}}")
    done
    local -a more
    (( rule & 2 )) && more=(-S '')
    if (( ${#spaced} )); then
        _describe -V 'PROGRAM' spaced "${more[@]}" && return 0
    fi
    (( rule & 4 )) || _files
}
(( $+functions[compdef] )) && compdef _PROGRAM PROGRAM
[[ ${funcstack[1]} == _PROGRAM ]] && _PROGRAM"""

_FISH = r"""# fish completion of PROGRAM; load it with: PROGRAM completion fish | source
function __PROGRAM_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    or return
    test (count $lines) -gt 0
    or return
    set -l rule (string replace : '' -- $lines[-1])
    set -e lines[-1]
    printf '%s\n' $lines
    if test (math "bitand($rule, 4)") -eq 0
        __fish_complete_path "$current"
    end
end
complete -c PROGRAM -e
complete -c PROGRAM -f -a '(__PROGRAM_complete)'"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str, program: str) -> str:
    """The script for a shell, for a command of the name ``program``."""
    return _SCRIPTS[shell].replace("PROGRAM", program)

#!/bin/sh
# A factory that speaks REST only, in POSIX sh: curl and sed (and what every system has: cat, date, mv, od, rm, sleep).
set -u
LC_ALL=C
export LC_ALL

usage() {
    cat <<'END'
usage: fleet-client.sh COMMAND

  claim [--wait S]           ask for a job, waiting up to S seconds; prints "jobId leaseEpoch"
  start                      say that work begins (within 30 s of the claim)
  renew                      say that work goes on (every 20 s); prints "stage leaseLeftS", and
                             "stop KIND SECONDS" behind it where the fleet wants the work ended
  checkpoint REF COMMIT N    name work in progress: a pushed git ref, its commit, N rising from 1
  report OUTCOME [SUMMARY]   end the term: ok, engine_failed, verify_failed, timeout, stalled, ...; prints the stage
  release [REASON]           give the job back; prints the stage
  body                       print the body of the job's manifest
  run [--wait S] -- CMD ...  claim, start, renew while CMD runs (the body is its standard input), run the manifest's
                             verify commands if CMD ended with 0, report ok, verify_failed or engine_failed
  help                       print this

environment:
  AQ_FLEET_API               the coordinator, such as http://127.0.0.1:8080
  AQ_FLEET_TOKEN             this factory's token (it names the factory)
  AQ_PRODUCT_ID              claim jobs of this product only; without it, of all that the factory serves
  AQ_FLEET_ENGINES           engines on this machine, separated by blanks (default: shell)
  AQ_FLEET_CAPABILITIES      capabilities of this machine, separated by blanks (default: none)
  AQ_FLEET_STATE             directory for the term held and the request under way (default: .fleet-client)
  AQ_FLEET_RETRY_S           seconds between two tries to deliver the report of `run` (default: 5)

CMD of `run` finds FLEET_JOB_ID, FLEET_LEASE_EPOCH, FLEET_PRODUCT_ID, FLEET_REPO, FLEET_REF and FLEET_CHECKPOINT
(the commit to go on from) in its environment; the working tree is its own business.
It is ended when the fleet says stop, when the term was fenced, and when no renewal was answered in time.
`setsid`, where there is one, makes that reach what CMD started, too.

exit codes:
  0  done (of `run`: reported, whatever the outcome)
  1  refused by the fleet, or wrong usage
  3  no coordinator answered: the same command may be repeated
  4  there is nothing to claim
  5  `run` only: ended by order of the fleet and released
  9  fenced (any 409): the term is over. Stop now, and do not push or clean up
END
}

umask 077
STATE=${AQ_FLEET_STATE:-.fleet-client}
GRANT=$STATE/grant.json     # the answer to the claim, whole
ENDED=$STATE/ended          # there: the term of GRANT was reported or released
REQUEST=$STATE/request      # the requestId of a claim that was not answered yet
ANSWER=$STATE/answer.$$
BODY=$STATE/body.$$
PROBLEM=$STATE/problem.$$

say() { printf '%s\n' "fleet-client: $*" >&2; }
fail() {
    code=$1
    shift
    say "$*"
    exit "$code"
}

# JSON, as the fleet writes it: compact, on one line, UTF-8, a quote inside a string always behind a backslash. So
# "NAME": can only be a key. `json_rest NAME` prints what follows the first one; `json_word` a number, true, false
# or null; `json_raw` a string as it is written; `json_text` a string as it is meant. (\u0001 and escapes above
# \u001f, which the fleet never writes, stay as they are.)

json_rest() {
    sed -n -e "/\"$1\":/{" -e "s/\"$1\":/\\
/" -e 's/^.*\n//' -e p -e '}'
}
json_word() { json_rest "$1" | sed -n -e 's/^\([-+.0-9A-Za-z]*\).*/\1/p'; }
json_raw() { json_rest "$1" | sed -n -e 's/^"\([^"\\]*\(\\.[^"\\]*\)*\)".*/\1/p'; }
json_text() { json_raw "$1" | json_meant; }

json_meant() {
    one=$(printf '\001')  # stands for a backslash meanwhile: JSON never has it raw
    set -- -e "s/\\\\\\\\/$one/g" -e 's/\\"/"/g' -e 's/\\\//\//g' \
        -e "s/\\\\t/$(printf '\t')/g" -e "s/\\\\r/$(printf '\r')/g" \
        -e "s/\\\\b/$(printf '\b')/g" -e "s/\\\\f/$(printf '\f')/g"
    for code in 02:002 03:003 04:004 05:005 06:006 07:007 08:010 0b:013 0c:014 0d:015 0e:016 0f:017 10:020 11:021 \
        12:022 13:023 14:024 15:025 16:026 17:027 18:030 19:031 1a:032 1b:033 1c:034 1d:035 1e:036 1f:037 7f:177; do
        set -- "$@" -e "s/\\\\u00${code%:*}/$(printf "\\${code#*:}")/g"
    done
    sed "$@" -e 's/\\n$//' -e 's/\\n/\
/g' -e "s/$one/\\\\/g"
}

# A text as the inside of a JSON string.
json_escaped() {
    printf '%s\n' "$1" | sed -e ':a' -e '$!{' -e 'N' -e 'ba' -e '}' -e 's/\\/\\\\/g' -e 's/"/\\"/g' \
        -e "s/$(printf '\t')/\\\\t/g" -e "s/$(printf '\r')/\\\\r/g" -e 's/\n/\\n/g' -e 's/[[:cntrl:]]/?/g'
}

# "a b" -> "a","b"
json_list() {
    printf '%s\n' "$1" | sed -e 's/^ *//' -e 's/ *$//' -e 's/[^ ][^ ]*/"&"/g' -e 's/  */,/g'
}

config_line() { printf '%s\n' "$2" | sed -e 's/[\\"]/\\&/g' -e "s/.*/$1 = \"&\"/"; }

# ask METHOD PATH PRODUCT SECONDS BODY: the answer is in $ANSWER. Returns 0, 1, 3 or 9; a refusal is said.
# The token goes to curl over a pipe, so that no list of processes shows it.
ask() {
    printf '%s' "$5" >"$BODY"
    ASKED=$(date +%s)
    status=$({
        config_line header "Authorization: Bearer $AQ_FLEET_TOKEN"
        [ -z "$3" ] || config_line header "x-product-id: $3"
    } | curl -q --config - --silent --show-error --connect-timeout 5 --max-time "$4" --request "$1" \
        --header 'Content-Type: application/json' --data-binary "@$BODY" --output "$ANSWER" \
        --write-out '%{http_code}' "${AQ_FLEET_API%/}$2" 2>"$PROBLEM") || {
        say "no answer from $AQ_FLEET_API: $(cat "$PROBLEM")"
        return 3
    }
    printf '\n' >>"$ANSWER" # some programs leave out a last line without its end
    case $status in
    2??) return 0 ;;
    409) said=9 ;;
    429 | 5??) said=3 ;;
    *) said=1 ;;
    esac
    detail=$(json_text detail <"$ANSWER")
    say "$(json_raw code <"$ANSWER") (HTTP $status): ${detail:-this is no answer of a coordinator}"
    return $said
}

have_grant() {
    [ -f "$GRANT" ] || fail 1 "no job is held here: claim one first"
    JOB_ID=$(json_raw jobId <"$GRANT")
    EPOCH=$(json_word leaseEpoch <"$GRANT")
    PRODUCT=$(json_raw productId <"$GRANT")
}

# ask_term METHOD SUFFIX FIELDS: about the term held.
ask_term() {
    code=0
    ask "$1" "/api/fleet/jobs/$JOB_ID$2" "$PRODUCT" 15 "{\"leaseEpoch\":$EPOCH,\"sessionId\":\"rest\"$3}" || code=$?
    if [ $code -eq 9 ]; then
        : >"$ENDED"
    fi
    return $code
}

claim() {
    wait_s=$1
    if [ -f "$GRANT" ] && [ ! -f "$ENDED" ]; then
        have_grant
        fail 1 "term $EPOCH of $JOB_ID is held: report or release it first"
    fi
    deadline=$(($(date +%s) + wait_s))
    while :; do
        left=$((deadline - $(date +%s)))
        [ $left -gt 0 ] || left=0
        [ $left -le 20 ] || left=20
        claim_once $left && return 0
        [ "$(date +%s)" -lt $deadline ] || return 4
    done
}

# claim_once SECONDS. The same requestId until there is an answer, so that a grant that was missed is had again.
claim_once() {
    if [ ! -s "$REQUEST" ]; then
        od -An -N12 -tx1 /dev/urandom | sed -e 's/ //g' >"$REQUEST.part"
        mv "$REQUEST.part" "$REQUEST"
    fi
    fields="\"requestId\":\"$(cat "$REQUEST")\",\"max\":1,\"waitS\":$1,\"sessionId\":\"rest\""
    fields="$fields,\"engines\":[$(json_list "${AQ_FLEET_ENGINES:-shell}")]"
    fields="$fields,\"capabilities\":[$(json_list "${AQ_FLEET_CAPABILITIES:-}")]"
    ask POST /api/fleet/claim "${AQ_PRODUCT_ID:-}" $(($1 + 15)) "{$fields}" || {
        code=$?
        # Refused for good: nothing was granted under this requestId. Unanswered: it is asked again.
        [ $code -eq 3 ] || rm -f "$REQUEST"
        exit $code
    }
    if [ -z "$(json_rest grants <"$ANSWER")" ]; then
        fail 3 "what $AQ_FLEET_API answered is no answer of a coordinator"
    fi
    if [ -z "$(json_raw jobId <"$ANSWER")" ]; then
        rm -f "$REQUEST"
        return 4
    fi
    cat "$ANSWER" >"$GRANT.part"
    mv "$GRANT.part" "$GRANT"
    rm -f "$ENDED" "$REQUEST"
    have_grant
    printf '%s %s\n' "$JOB_ID" "$EPOCH"
}

stop_kind() { json_rest stop <"$ANSWER" | sed -n -e '/^{/p' | json_raw kind; }
stop_seconds() { json_rest stop <"$ANSWER" | json_word byS; }

term_line() {
    stop=$(stop_kind)
    printf '%s %s%s\n' "$(json_raw stage <"$ANSWER")" "$(json_word leaseLeftS <"$ANSWER")" \
        "${stop:+ stop $stop $(stop_seconds)}"
}

report_fields() { # OUTCOME SUMMARY EVIDENCE
    printf ',"result":{"outcome":"%s","summary":"%s","verify":[%s]}' \
        "$(json_escaped "$1")" "$(json_escaped "$2")" "$3"
}

report() { # OUTCOME SUMMARY EVIDENCE
    ask_term PATCH '' "$(report_fields "$1" "$2" "$3")" || return $?
    : >"$ENDED"
    json_raw stage <"$ANSWER"
}

release() { # OUTCOME REASON
    ask_term POST /lease/release ",\"outcome\":\"$1\",\"reason\":\"$(json_escaped "$2")\"" || return $?
    : >"$ENDED"
    json_raw stage <"$ANSWER"
}

# until_answered COMMAND ...: an end is repeated until somebody takes or refuses it.
until_answered() {
    tries=0
    while :; do
        code=0
        "$@" || code=$?
        tries=$((tries + 1))
        if [ $code -ne 3 ] || [ $tries -ge 60 ]; then
            return $code
        fi
        sleep "${AQ_FLEET_RETRY_S:-5}"
    done
}

# How long the term may be trusted from when it was asked for: the lease left, less the margin.
trusted_s() {
    left=$(json_word leaseLeftS <"$ANSWER")
    left=${left%%.*}
    margin=$(((${left:-0} + 9) / 10))
    [ $margin -le 5 ] || margin=5
    printf '%s\n' $((${left:-0} - margin))
}

end_work() { # SIGNAL: to the group, where `setsid` made one
    kill -s "$1" -- "-$WORK" 2>/dev/null || kill -s "$1" "$WORK" 2>/dev/null || :
}

# Beside the work: renews, and ends the work once the term is over, with the reason in $STATE/why.
keep_alive() { # TRUSTED_UNTIL
    until=$1
    ANSWER=$STATE/answer.renew
    BODY=$STATE/body.renew
    PROBLEM=$STATE/problem.renew
    next=$(($(date +%s) + EVERY))
    why=
    while [ -z "$why" ]; do
        sleep 1
        now=$(date +%s)
        if [ "$now" -ge "$until" ]; then
            why=unheard
        elif [ "$now" -ge $next ]; then
            code=0
            ask_term POST /lease/renew '' || code=$?
            case $code in
            0)
                until=$((ASKED + $(trusted_s)))
                next=$((now + EVERY))
                why=$(stop_kind)
                ;;
            3) ;; # asked again in a second, for as long as the term is trusted
            *) why=fenced ;;
            esac
        fi
    done
    printf '%s\n' "$why" >"$STATE/why"
    end_work TERM
    sleep 2
    end_work KILL
}

# `fleet-client.sh work CMD ...`, which `run` starts in a group of its own: the command and its verification, and what
# is to be reported of them, in $STATE/outcome, summary and evidence.
work() {
    have_grant
    code=0
    body | "$@" || code=$?
    if [ $code -ne 0 ]; then
        outcome=engine_failed summary="the command ended with $code" evidence=
    else
        outcome=ok summary= evidence=
        verify
    fi
    printf '%s' "$evidence" >"$STATE/evidence"
    printf '%s' "$summary" >"$STATE/summary"
    printf '%s\n' "$outcome" >"$STATE/outcome.part"
    mv "$STATE/outcome.part" "$STATE/outcome"
}

# The manifest's verify commands, one after the other, until one fails.
verify() {
    rest=$(json_rest verify <"$GRANT" | sed -e 's/^\[//')
    while :; do
        case $rest in
        '"'*) ;;
        *) return ;;
        esac
        raw=$(printf '%s\n' "$rest" | sed -e 's/^"\([^"\\]*\(\\.[^"\\]*\)*\)".*/\1/')
        rest=$(printf '%s\n' "$rest" | sed -e 's/^"[^"\\]*\(\\.[^"\\]*\)*",*//')
        code=0
        sh -c "$(printf '%s\n' "$raw" | json_meant)" </dev/null >"$STATE/verify.out" 2>&1 || code=$?
        # the last 20 lines, each cut, in ASCII: a report must not be refused for what a command printed
        tail=$(sed -e ':a' -e '$q' -e 'N' -e '21,$D' -e 'ba' "$STATE/verify.out" |
            sed -e "s/[^ -~$(printf '\t')]/?/g" -e 's/^\(.\{200\}\).*/\1/')
        evidence="$evidence${evidence:+,}{\"command\":\"$raw\",\"rc\":$code,\"tail\":\"$(json_escaped "$tail")\"}"
        if [ $code -ne 0 ]; then
            outcome=verify_failed summary="a verify command ended with $code"
            return
        fi
    done
}

run() { # WAIT_S CMD ...
    wait_s=$1
    shift
    claim "$wait_s" || return $?
    EVERY=$(json_word renewEveryS <"$GRANT")
    EVERY=${EVERY%%.*}
    [ "${EVERY:-0}" -ge 1 ] || EVERY=1
    within=$(json_word startWithinS <"$GRANT")
    start_by=$((ASKED + ${within%%.*} - 5))
    while :; do
        code=0
        ask_term PATCH '' ',"stage":"building"' || code=$?
        [ $code -eq 3 ] && [ "$(date +%s)" -lt $start_by ] || break
        sleep 1
    done
    [ $code -eq 0 ] || return $code

    rm -f "$STATE/why" "$STATE/outcome"
    FLEET_JOB_ID=$JOB_ID FLEET_LEASE_EPOCH=$EPOCH FLEET_PRODUCT_ID=$PRODUCT
    FLEET_REPO=$(json_text repo <"$GRANT")
    FLEET_REF=$(json_text ref <"$GRANT")
    FLEET_CHECKPOINT=$(json_rest checkpoint <"$GRANT" | sed -n -e '/^{/p' | json_text commit)
    export FLEET_JOB_ID FLEET_LEASE_EPOCH FLEET_PRODUCT_ID FLEET_REPO FLEET_REF FLEET_CHECKPOINT
    if command -v setsid >/dev/null 2>&1; then
        setsid sh "$0" work "$@" &
    else
        sh "$0" work "$@" &
    fi
    WORK=$!
    trap 'printf "interrupted\n" >"$STATE/why"; end_work TERM' HUP INT TERM
    keep_alive $((ASKED + $(trusted_s))) &
    renewer=$!
    while kill -0 $WORK 2>/dev/null; do
        wait $WORK || : # a signal ends the waiting, too
    done
    kill $renewer 2>/dev/null || :
    trap '' HUP INT TERM
    rm -f "$STATE"/*.renew

    if [ -f "$STATE/outcome" ]; then # it came to its end: a stop that was asked for meanwhile changes nothing
        until_answered report "$(cat "$STATE/outcome")" "$(cat "$STATE/summary")" "$(cat "$STATE/evidence")"
        return $?
    fi
    why=killed
    [ ! -s "$STATE/why" ] || why=$(cat "$STATE/why")
    grace=2
    while [ $grace -gt 0 ] && kill -0 -- "-$WORK" 2>/dev/null; do
        sleep 1
        grace=$((grace - 1))
    done
    end_work KILL
    case $why in
    fenced) return 9 ;;
    killed) until_answered report engine_failed 'the command was killed' '' ;;
    cancel) until_answered release cancelled '' && return 5 ;;
    preempt) until_answered release preempted '' && return 5 ;;
    *) until_answered release released "$why" && return 5 ;;
    esac
}

body() { json_text bodyMd <"$GRANT"; }

wrong() { fail 1 "$*; see: fleet-client.sh help"; }

main() {
    command=${1:-help}
    [ $# -eq 0 ] || shift
    case $command in
    help | -h | --help)
        usage
        return 0
        ;;
    esac
    mkdir -p "$STATE" || fail 1 "the directory $STATE cannot be made"
    trap 'rm -f "$ANSWER" "$BODY" "$PROBLEM"' EXIT
    case $command in
    body)
        have_grant
        body
        return 0
        ;;
    work)
        work "$@"
        return 0
        ;;
    esac
    [ -n "${AQ_FLEET_API:-}" ] || wrong 'AQ_FLEET_API is not set'
    [ -n "${AQ_FLEET_TOKEN:-}" ] || wrong 'AQ_FLEET_TOKEN is not set'
    wait_s=0
    case $command in
    claim | run)
        if [ "${1:-}" = --wait ]; then
            wait_s=${2:-}
            case $wait_s in
            '' | *[!0-9]*) wrong '--wait takes a number of seconds' ;;
            esac
            shift 2
        fi
        ;;
    start | renew | checkpoint | report | release) have_grant ;;
    *) wrong "'$command' is no command" ;;
    esac
    case $command in
    claim)
        [ $# -eq 0 ] || wrong "claim: what is '$1'?"
        claim "$wait_s"
        ;;
    run)
        [ "${1:-}" = -- ] || wrong 'run: write -- before the command'
        shift
        [ $# -gt 0 ] || wrong 'run: which command?'
        run "$wait_s" "$@"
        ;;
    start)
        ask_term PATCH '' ',"stage":"building"' && term_line
        ;;
    renew)
        ask_term POST /lease/renew '' && term_line
        ;;
    checkpoint)
        case ${3:-} in
        '' | *[!0-9]*) wrong 'checkpoint takes REF COMMIT N' ;;
        esac
        fields="\"ref\":\"$(json_escaped "$1")\",\"commit\":\"$(json_escaped "$2")\",\"number\":$3"
        ask_term PATCH '' ",\"checkpoint\":{$fields}" && term_line
        ;;
    report)
        [ -n "${1:-}" ] || wrong 'report takes OUTCOME [SUMMARY]'
        report "$1" "${2:-}" ''
        ;;
    release)
        release released "${1:-}"
        ;;
    esac
}

main "$@"

# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# fish: installed as acme-steer.fish in /usr/share/fish/vendor_completions.d.

function __acme_steer_verb -d 'Is it one of these verbs?'
    set -l words (commandline -opc)
    test (count $words) -ge 2; and contains -- $words[2] $argv
end

function __acme_steer_at -d 'Is it this verb, and this many words behind it?'
    set -l words (commandline -opc)
    test (count $words) -eq (math $argv[2] + 2); and test $words[2] = $argv[1]
end

set -l first 'test (count (commandline -opc)) -eq 1'
set -l window '__acme_steer_verb run open challenge serve'

complete -c acme-steer -f
complete -c acme-steer -n $first -a run -d 'Open a window, run an ACME client, close'
complete -c acme-steer -n $first -a open -d 'Open or renew a window'
complete -c acme-steer -n $first -a close -d 'Close a window'
complete -c acme-steer -n $first -a challenge -d 'Add, remove or list challenges'
complete -c acme-steer -n $first -a status -d 'Show windows, connections and counters'
complete -c acme-steer -n $first -a doctor -d 'Can this host do it? What is in the way?'
complete -c acme-steer -n $first -a probe -d 'Connect to a name as a CA would'
complete -c acme-steer -n $first -a serve -d 'The resident process'
complete -c acme-steer -n $first -a help -d 'Show a verb\'s options'
complete -c acme-steer -n $first -l version -d 'Show the version'
complete -c acme-steer -n 'not __acme_steer_verb help' -s h -l help -d 'Show the options'
complete -c acme-steer -n '__acme_steer_at help 0' -a 'run open close challenge status doctor probe serve'
complete -c acme-steer -n '__acme_steer_at challenge 0' -a 'add remove list'
complete -c acme-steer -n '__acme_steer_at probe 0' -a '(__fish_print_hostnames)'
complete -c acme-steer -n '__acme_steer_verb run' -a '(__fish_complete_subcommand --fcs-skip=2)'

complete -c acme-steer -n '__acme_steer_verb run open close' -l name -x -d 'Name of the window'
complete -c acme-steer -n '__acme_steer_verb run open challenge' -l ttl -x -a '90s 10m 1h' -d 'It ends by itself after this'
complete -c acme-steer -n '__acme_steer_verb run open serve' -l domain -x -a '(__fish_print_hostnames)' -d 'Name that is validated'
complete -c acme-steer -n '__acme_steer_verb run open doctor' -l responder -x -a 127.0.0.1:31443 -d 'Who answers acme-tls/1'
complete -c acme-steer -n $window -l web-server -x -d 'Who gets all else'
complete -c acme-steer -n '__acme_steer_verb run open challenge doctor probe serve' -l port -x -a 443 -d Port
complete -c acme-steer -n $window -l plane -x -a 'auto handoff relay' -d 'How connections get to their target'
complete -c acme-steer -n $window -l client-ip -x -a 'none transparent proxy-v1 proxy-v2' -d 'Client\'s address in a relay'
complete -c acme-steer -n $window -l sniff-timeout -x -a '500ms 3s' -d 'Longest wait for a ClientHello'
complete -c acme-steer -n '__acme_steer_verb run open serve' -l workers -x -d 'Threads that sniff'
complete -c acme-steer -n '__acme_steer_verb run open serve' -l log-format -x -a 'auto plain json journal' -d 'How the log is written'
complete -c acme-steer -n '__acme_steer_verb run open serve' -l log-visitors -d 'Log every steered connection'
complete -c acme-steer -n '__acme_steer_verb run open close challenge' -s q -l quiet -d 'Say nothing but errors and warnings'
complete -c acme-steer -n '__acme_steer_verb close challenge' -l all -d 'All of them'
complete -c acme-steer -n '__acme_steer_verb close challenge' -l strict -d 'Exit 1 unless it is gone'
complete -c acme-steer -n '__acme_steer_verb challenge' -l key-authorization -x -d 'The key authorization itself'
complete -c acme-steer -n '__acme_steer_verb challenge status doctor probe' -l json -d 'As a JSON document'
complete -c acme-steer -n '__acme_steer_verb status' -l prometheus -d 'As metrics for Prometheus'
complete -c acme-steer -n '__acme_steer_verb status' -l watch -d 'Again and again, with rates'
complete -c acme-steer -n '__acme_steer_verb run open close challenge status doctor serve' -l netns -r -F -a '(path basename /run/netns/*)' -d 'Network namespace'
complete -c acme-steer -n '__acme_steer_verb probe' -l address -x -d 'Connect there instead of asking the DNS'
complete -c acme-steer -n '__acme_steer_verb probe' -l expect -x -d 'The digest that must be answered'
complete -c acme-steer -n '__acme_steer_verb probe' -l timeout -x -a 10 -d 'Seconds for each connection'
complete -c acme-steer -n '__acme_steer_verb serve' -l on-demand -d 'End when there is nothing left to do'
complete -c acme-steer -n '__acme_steer_verb serve' -l ready-fd -x -d 'Write "ready" there'
complete -c acme-steer -n '__acme_steer_verb serve' -l arm -x -a 127.0.0.1:31443 -d 'Steer while somebody listens there'
complete -c acme-steer -n '__acme_steer_verb serve' -l notice -x -a 'auto bpf poll' -d 'How that is noticed'
complete -c acme-steer -n '__acme_steer_verb close' -l drain -d 'Wait until no relayed connection is left'
complete -c acme-steer -n '__acme_steer_verb close' -l kill -d 'Reset relayed connections'

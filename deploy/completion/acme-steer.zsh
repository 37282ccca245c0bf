#compdef acme-steer
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# zsh: installed as _acme-steer in a directory of $fpath, as /usr/share/zsh/vendor-completions.

_acme-steer() {
	local -a verbs window log netns quiet help
	local verb=${words[2]}

	verbs=(
		'run:open a window, run an ACME client, close'
		'open:open or renew a window'
		'close:close a window'
		'challenge:add, remove or list challenges'
		'status:show windows, connections and counters'
		'doctor:can this host do it? what is in the way?'
		'probe:connect to a name as a CA would'
		'serve:the resident process'
		'help:show a verb'\''s options'
	)
	if (( CURRENT == 2 )); then
		_describe -t commands verb verbs
		_arguments '--help[show the verbs]' '--version[show the version]'
		return
	fi

	netns=('--netns=[network namespace to work in]:name, pid or path:_files -W /run/netns')
	quiet=('(-q --quiet)'{-q,--quiet}'[say nothing but errors and warnings]')
	help=('(-h --help)'{-h,--help}'[show the options]')
	log=(
		'--log-format=[how the log is written]:format:(auto plain json journal)'
		'--log-visitors[log every steered connection]'
	)
	window=(
		'--ttl=[it ends by itself after this]:time:(90s 10m 1h)'
		'*--port=[port to steer]:port:(443)'
		'--web-server=[who gets all else]:address and port:'
		'--plane=[how connections get to their target]:plane:(auto handoff relay)'
		'--client-ip=[client'\''s address in a relay]:way:(none transparent proxy-v1 proxy-v2)'
		'--sniff-timeout=[longest wait for a ClientHello]:time:(500ms 3s)'
	)

	# The verb is to be the first word for _arguments.
	shift words
	(( CURRENT-- ))
	case $verb in
	run|open)
		local -a rest
		[[ $verb == run ]] && rest=('*::command:_normal')
		_arguments -s $window $log $netns $quiet $help $rest \
			'--name=[name of the window]:name:' \
			'*--domain=[name or IP address that is validated]:name:_hosts' \
			'--responder=[who answers acme-tls/1]:address and port:(127.0.0.1\:31443)' \
			'--workers=[workers of a resident process that this starts]:number:'
		;;
	close)
		_arguments -s $netns $quiet $help \
			'(--all)--name=[window to close]:name:' \
			'(--name)--all[close every window]' \
			'--drain=-[wait until no relayed connection is left]::time:' \
			'--kill[reset relayed connections]' \
			'--strict[exit 1 when it can'\''t be said that the window is closed]'
		;;
	challenge)
		_arguments -s $window $netns $quiet $help \
			'1:what to do:(add remove list)' '2:name:_hosts' '3:digest:' \
			'--key-authorization=[the key authorization itself]:key authorization:' \
			'--all[remove every challenge]' \
			'--strict[exit 1 when it can'\''t be said that the challenge is gone]' \
			'--json[list as a JSON document]'
		;;
	status)
		_arguments -s $netns $help '(--prometheus)--json[the whole, as a JSON document]' \
			'(--json --watch)--prometheus[as metrics for Prometheus]' \
			'(--prometheus)--watch=-[again and again, with rates]::interval:(500ms 2s 10s)'
		;;
	doctor)
		_arguments -s $netns $help '--json[as a JSON document]' \
			'--port=[port that is to be steered]:port:(443)' \
			'--responder=[where the responder listens]:address and port:(127.0.0.1\:31443)'
		;;
	probe)
		_arguments -s $help '1:name:_hosts' '--json[as a JSON document]' \
			'*--address=[connect there instead of asking the DNS]:address:_hosts' \
			'--port=[port to connect to]:port:(443)' \
			'--expect=[the digest that must be answered]:digest:' \
			'--timeout=[for each connection]:seconds:(10)'
		;;
	serve)
		_arguments -s ${window:#--ttl*} $log $netns $help \
			'*--arm=[steer exactly while somebody listens there]:address and port:(127.0.0.1\:31443)' \
			'--notice=[how that is noticed]:way:(auto bpf poll)' \
			'*--domain=[name or IP address that is validated]:name:_hosts' \
			'--workers=[threads that sniff]:number:' \
			'--on-demand[end when there is nothing left to do]' \
			'--ready-fd=[write "ready" there]:descriptor:'
		;;
	help)
		_describe -t commands verb verbs
		;;
	esac
}

_acme-steer "$@"

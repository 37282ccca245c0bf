# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# bash: installed as acme-steer in /usr/share/bash-completion/completions, or sourced by ~/.bashrc.

# The options of a verb, one a line; those that take a value end in "=".
_acme_steer_options()
{
	case $1 in
	run | open)
		echo --name= --ttl= --domain= --responder= --web-server= --port= --plane= \
			--client-ip= --sniff-timeout= --log-format= --log-visitors --netns= --workers= \
			--quiet --help ;;
	close) echo --name= --all --drain --kill --strict --netns= --quiet --help ;;
	challenge)
		echo --key-authorization= --ttl= --port= --web-server= --plane= --client-ip= \
			--sniff-timeout= --all --strict --json --netns= --quiet --help ;;
	status) echo --json --prometheus --watch --netns= --help ;;
	doctor) echo --port= --responder= --json --netns= --help ;;
	probe) echo --address= --port= --expect= --timeout= --json --help ;;
	serve)
		echo --arm= --notice= --domain= --web-server= --port= --plane= --client-ip= \
			--sniff-timeout= --log-format= --log-visitors --workers= --on-demand --ready-fd= --netns= --help ;;
	help) ;;
	*) echo --help --version ;;
	esac
}

# What may stand for the value of an option; nothing where only the user knows.
_acme_steer_values()
{
	case $1 in
	--plane) COMPREPLY=($(compgen -W 'auto handoff relay' -- "$2")) ;;
	--client-ip) COMPREPLY=($(compgen -W 'none transparent proxy-v1 proxy-v2' -- "$2")) ;;
	--log-format) COMPREPLY=($(compgen -W 'auto plain json journal' -- "$2")) ;;
	--notice) COMPREPLY=($(compgen -W 'auto bpf poll' -- "$2")) ;;
	--netns)
		compopt -o filenames 2>/dev/null
		COMPREPLY=($(compgen -f -- "$2"))
		[[ $2 == /* ]] || COMPREPLY=($(cd /run/netns 2>/dev/null && compgen -f -- "$2")) ;;
	--address | --domain) COMPREPLY=($(compgen -A hostname -- "$2")) ;;
	esac
}

_acme_steer()
{
	local cur=${COMP_WORDS[COMP_CWORD]} verb='' options option i
	local verbs='run open close challenge status doctor probe serve help'

	COMPREPLY=()
	# After "--" there is run's command.
	for ((i = 1; i < COMP_CWORD; i++)); do
		if [[ ${COMP_WORDS[i]} == -- && $verb == run ]]; then
			if ((i + 1 == COMP_CWORD)); then
				COMPREPLY=($(compgen -c -- "$cur"))
			else
				compopt -o filenames 2>/dev/null
				COMPREPLY=($(compgen -f -- "$cur"))
			fi
			return
		fi
		[[ -n $verb || ${COMP_WORDS[i]} == -* ]] || verb=${COMP_WORDS[i]}
	done
	options=$(_acme_steer_options "$verb")

	# "--plane=relay" is three words here, "--plane relay" is two.
	i=$((COMP_CWORD - 1))
	[[ $cur != = ]] || cur=''
	[[ ${COMP_WORDS[i]} != = ]] || i=$((i - 1))
	[[ ${COMP_WORDS[COMP_CWORD]} != = ]] || i=$((COMP_CWORD - 1))
	option=${COMP_WORDS[i]}
	if [[ $option == --* && " $options " == *" $option= "* ]]; then
		_acme_steer_values "$option" "$cur"
		return
	fi

	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$options" -- "$cur"))
		[[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2>/dev/null
	elif [[ -z $verb ]]; then
		COMPREPLY=($(compgen -W "$verbs" -- "$cur"))
	elif [[ $verb == help ]]; then
		COMPREPLY=($(compgen -W "$verbs" -- "$cur"))
	elif [[ $verb == challenge && ${COMP_WORDS[COMP_CWORD - 1]} == challenge ]]; then
		COMPREPLY=($(compgen -W 'add remove list' -- "$cur"))
	elif [[ $verb == probe ]]; then
		COMPREPLY=($(compgen -A hostname -- "$cur"))
	fi
}

complete -F _acme_steer acme-steer

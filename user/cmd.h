/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The subcommands. Each gets its own name as argv[0] and returns the exit code. */
#ifndef CMD_H
#define CMD_H

enum {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NO_WINDOW = 3,	   /* status */
	EXIT_NOT_EXECUTABLE = 126, /* run: as shells have it */
	EXIT_NOT_FOUND = 127,
	EXIT_SIGNAL = 128, /* run: plus the signal's number */
};

int cmd_close(int argc, char **argv);
int cmd_challenge(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_open(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_responder(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_status(int argc, char **argv);

#endif

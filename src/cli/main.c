/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the command line: the table of verbs, parsing of options from options.def, help, and how errors are shown. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <json-c/json.h>

#include "base/error.h"
#include "base/macros.h"
#include "cli/cli.h"
#include "cli/version.h"

/* Of these options may also stand behind other words. */
enum { CLI_MIXED = V_SNAPSHOT | V_CPUINFO };

static const struct cli_verb cli_verbs[] = {
	{"dump", V_DUMP, "--tree PID --images-dir DIR [OPTION...]",
	 "write the state of a process tree as an image", cli_dump},
	{"pre-dump", V_PRE_DUMP, "--tree PID --images-dir DIR [OPTION...]",
	 "store memory of a process tree ahead of a dump, while it runs", cli_pre_dump},
	{"restore", V_RESTORE, "--images-dir DIR [OPTION...] | JOB | --all",
	 "bring an image or a saved job back to life", cli_restore},
	{"check", V_CHECK, "[--tree PID] [OPTION...]", "say what this machine can do, or what hinders a dump",
	 cli_check},
	{"doctor", V_DOCTOR, "[--json]", "say what works for containers here, and what to do", cli_doctor},
	{"migrate", V_MIGRATE, "--tree PID --to ADDRESS [OPTION...]",
	 "move a process tree to a ferry that receives", cli_migrate},
	{"receive", V_RECEIVE, "--listen ADDRESS [OPTION...]",
	 "take one process tree over from another ferry", cli_receive},
	{"migrations", V_MIGRATIONS, "[OPTION...]", "list migrations, and what to do about interrupted ones",
	 cli_migrations},
	{"run", V_RUN, "[OPTION...] [--] COMMAND [WORD...]", "start a job that is ready to move",
	 cli_run_job},
	{"ps", V_PS, "[OPTION...]", "list jobs", cli_ps},
	{"attach", V_ATTACH, "[OPTION...] JOB", "connect the terminal to a job", cli_attach},
	{"logs", V_LOGS, "[OPTION...] JOB", "print what a job has written", cli_logs},
	{"save", V_SAVE, "[OPTION...] JOB | --all", "write jobs as images and end them", cli_save},
	{"snapshot", V_SNAPSHOT, "PID|JOB [OPTION...] | list DIR | prune DIR --keep COUNT",
	 "store a tree again and again while it runs", cli_snapshot},
	{"stop", V_STOP, "[OPTION...] JOB", "end a job", cli_stop},
	{"rm", V_RM, "[OPTION...] JOB", "remove what is left of a job", cli_rm},
	{"show", V_SHOW, "--images-dir DIR", "print what an image holds", cli_show},
	{"dedup", V_DEDUP, "--images-dir DIR", "take out of the images it builds on what an image has again",
	 cli_dedup},
	{"page-server", V_PAGE_SERVER, "--listen ADDRESS --images-dir DIR [OPTION...]",
	 "take the pages of a dump from another machine", cli_page_server},
	{"lazy-pages", V_LAZY_PAGES, "--images-dir DIR [OPTION...]",
	 "bring the memory of a restore with --lazy-pages", cli_lazy_pages},
	{"cpuinfo", V_CPUINFO, "dump|check [--images-dir DIR] [OPTION...]",
	 "store what the processor can do, or compare it with this one", cli_cpuinfo},
	{"image", V_IMAGE, "show|decode|encode|info|verify DIR|FILE",
	 "look into image files, or make them from JSON", cli_image},
	{"debug", V_IMAGE, "faults | report FILE", "list the faults that tests can ask for; draw a report",
	 cli_debug},
};

static void cli_help(FILE *out)
{
	fprintf(out, "Usage: ferry VERB [OPTION...]\n\nMoves running Linux work.\n\nVerbs:\n");
	for (size_t i = 0; i < ARRAY_SIZE(cli_verbs); i++)
		fprintf(out, "  %-11s %s\n", cli_verbs[i].word, cli_verbs[i].text);
	fprintf(out, "\n'ferry VERB --help' lists a verb's options.\n");
}

/* Option column, then the text wrapped to 80 columns. */
static void cli_help_option(FILE *out, const struct option_info *info)
{
	char head[80];
	int n = info->letter ? snprintf(head, sizeof(head), "  -%c, --%s", info->letter, info->word)
			     : snprintf(head, sizeof(head), "      --%s", info->word);
	if (info->argument)
		snprintf(head + n, sizeof(head) - (size_t)n, " %s", info->argument);
	enum { COLUMN = 32 };
	if (strlen(head) < COLUMN - 1)
		fprintf(out, "%-*s", COLUMN, head);
	else
		fprintf(out, "%s\n%*s", head, COLUMN, "");
}

static void cli_help_text(FILE *out, const char *text)
{
	enum { COLUMN = 32, WIDTH = 80 };
	size_t at = COLUMN;
	while (*text) {
		size_t n = strcspn(text, " ");
		if (at + n >= WIDTH) {
			fprintf(out, "\n%*s", COLUMN, "");
			at = COLUMN;
		}
		fprintf(out, "%.*s%s", (int)n, text, text[n] ? " " : "");
		at += n + 1;
		text += n + (text[n] == ' ');
	}
	fputc('\n', out);
}

static void cli_help_verb(FILE *out, const struct cli_verb *verb)
{
	fprintf(out, "Usage: ferry %s %s\n\n%c%s.\n\nOptions:\n", verb->word, verb->usage,
		verb->text[0] - 'a' + 'A', verb->text + 1);
	for (size_t i = 0; i < option_infos_n; i++) {
		if (!(option_infos[i].verbs & verb->verb))
			continue;
		cli_help_option(out, &option_infos[i]);
		cli_help_text(out, option_infos[i].help);
	}
	fprintf(out, "  -h, --help                    show this\n");
}

static void cli_write_log(void *context, const struct log_line *line)
{
	FILE *out = context;
	fprintf(out, "%llu.%06llu %s%s%s%s", (unsigned long long)(line->time_ns / 1000000000u),
		(unsigned long long)(line->time_ns / 1000 % 1000000u), line->stage, *line->kind ? "/" : "",
		line->kind, line->pid ? "" : ": ");
	if (line->pid)
		fprintf(out, " pid %d: ", line->pid);
	fprintf(out, "%s\n", line->text);
}

static void cli_show_error(const struct ferry_error *err, bool json)
{
	if (json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "error", json_object_new_string(ferry_error_word(err->id)));
		json_object_object_add(o, "errno", json_object_new_int(err->code));
		json_object_object_add(o, "stage", json_object_new_string(err->stage));
		json_object_object_add(o, "kind", json_object_new_string(err->kind));
		json_object_object_add(o, "pid", json_object_new_int(err->pid));
		json_object_object_add(o, "message", json_object_new_string(err->message));
		json_object_object_add(o, "hint", json_object_new_string(error_next_step(err)));
		cli_print_json(o);
	}
	fprintf(stderr, "ferry: %s [%s]\n", err->message, ferry_error_word(err->id));
	if (*error_next_step(err))
		fprintf(stderr, "ferry: hint: %s\n", error_next_step(err));
}

void cli_print_json(struct json_object *object)
{
	printf("%s\n", json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
	json_object_put(object);
}

static int cli_unknown(const struct cli_verb *verb, const char *text, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "ferry %s has no option '%s'", verb->word, text);
	error_hint(err, "ferry %s --help lists them", verb->word);
	return -EINVAL;
}

/* "--word", "--word=value", "--word value". Returns how many arguments were used. */
static int cli_parse_long(struct cli *c, const struct cli_verb *verb, int left, char **argv,
			  struct ferry_error *err)
{
	const char *word = argv[0] + 2, *equals = strchr(word, '=');
	const struct option_info *info =
		option_by_word(word, equals ? (size_t)(equals - word) : strlen(word));
	if (!info || !(info->verbs & verb->verb))
		return cli_unknown(verb, argv[0], err);
	bool separate = info->type != OPTION_BOOL && !equals && left > 1;
	int r = option_set(&c->options, info, equals ? equals + 1 : separate ? argv[1] : NULL, err);
	return r < 0 ? r : 1 + separate;
}

/* "-d", "-dj", "-t5", "-t 5" */
static int cli_parse_short(struct cli *c, const struct cli_verb *verb, int left, char **argv,
			   struct ferry_error *err)
{
	for (const char *letter = argv[0] + 1; *letter; letter++) {
		const struct option_info *info = option_by_letter(*letter, verb->verb);
		if (!info)
			return cli_unknown(verb, argv[0], err);
		if (info->type == OPTION_BOOL) {
			int r = option_set(&c->options, info, NULL, err);
			if (r < 0)
				return r;
			continue;
		}
		bool separate = !letter[1] && left > 1;
		int r = option_set(&c->options, info,
				   letter[1]  ? letter + 1
				   : separate ? argv[1]
					      : NULL,
				   err);
		return r < 0 ? r : 1 + separate;
	}
	return 1;
}

/* 1: help was asked for. */
static int cli_parse(struct cli *c, const struct cli_verb *verb, int argc, char **argv,
		     struct ferry_error *err)
{
	int i = 0, words = 0;
	while (i < argc && (verb->verb & CLI_MIXED || (argv[i][0] == '-' && argv[i][1]))) {
		if (argv[i][0] != '-' || !argv[i][1]) {
			argv[words++] = argv[i++];
			continue;
		}
		if (!strcmp(argv[i], "--")) {
			i++;
			break;
		}
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return 1;
		int used = argv[i][1] == '-' ? cli_parse_long(c, verb, argc - i, argv + i, err)
					     : cli_parse_short(c, verb, argc - i, argv + i, err);
		if (used < 0)
			return used;
		i += used;
	}
	while (words && i < argc)
		argv[words++] = argv[i++];
	c->argc = words ? words : argc - i;
	c->argv = words ? argv : argv + i;
	return 0;
}

static int cli_open_log(struct cli *c, struct ferry_error *err)
{
	c->log = (struct log_sink){.write = cli_write_log,
				   .context = stderr,
				   .level = c->options.verbose ? LOG_DEBUG : LOG_WARN};
	if (!c->options.log_file)
		return 0;
	c->log_file = fopen(c->options.log_file, "we");
	if (!c->log_file)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "--log-file '%s'", c->options.log_file);
	c->log.context = c->log_file;
	c->log.level = LOG_DEBUG;
	return 0;
}

static int cli_run(const struct cli_verb *verb, int argc, char **argv)
{
	struct cli c = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	options_init(&c.options);
	int r = cli_parse(&c, verb, argc, argv, &err);
	if (r == 1) {
		cli_help_verb(stdout, verb);
		options_release(&c.options);
		return 0;
	}
	if (r >= 0)
		r = cli_open_log(&c, &err);
	if (r >= 0)
		r = verb->run(&c, &err);
	if (r < 0) {
		cli_show_error(&err, c.options.json);
		r = ferry_error_exit_code(err.id) ? ferry_error_exit_code(err.id) : 1;
	}
	if (c.log_file)
		fclose(c.log_file);
	options_release(&c.options);
	return r;
}

int main(int argc, char **argv)
{
	if (argc && !strcmp(basename(argv[0]), "criu"))
		return cli_criu(argc, argv);
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		cli_help(argc < 2 ? stderr : stdout);
		return argc < 2 ? 2 : 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
		printf("ferry %s\n", FERRY_VERSION);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(cli_verbs); i++)
		if (!strcmp(argv[1], cli_verbs[i].word))
			return cli_run(&cli_verbs[i], argc - 2, argv + 2);
	fprintf(stderr, "ferry: there is no verb '%s' [usage]\nferry: hint: ferry --help lists them\n",
		argv[1]);
	return 2;
}

"""Has isolationtester tell sessions by their application_name where it looks for who waits for a lock: through a pooler a process id says nothing.
As in the original, who asks is none of those that are waited for: REINDEX CONCURRENTLY waits for the snapshot of just that question."""

import sys

path = sys.argv[1]
text = open(path).read()


def replace(begin, end, new):
    global text
    a = text.index(begin)
    text = text[:a] + new + text[text.index(end, a):]


replace(
    "		conns[i].backend_pid_str = psprintf(",
    "	}\n",
    "		conns[i].backend_pid_str = pg_strdup(PQgetvalue(res, 0, 0));\n",
)
replace(
    "	initPQExpBuffer(&wait_query);",
    "	res = PQprepare(conns[0].conn, PREP_WAITING",
    '''	initPQExpBuffer(&wait_query);
	appendPQExpBufferStr(&wait_query,
						 "SELECT coalesce(bool_or(pg_isolation_test_session_is_blocked(pid, ARRAY("
						 "SELECT pid FROM pg_stat_activity WHERE application_name LIKE regexp_replace($1, '[^/]*$', '%') AND application_name NOT LIKE '%/control connection'))), false)"
						 " FROM pg_stat_activity WHERE application_name = $1");
''',
)
open(path, "w").write(text)

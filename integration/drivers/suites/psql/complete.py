"""Completion at a terminal: psql asks the catalogs."""
import os, pty, re, select, sys, time

asked = ["SELECT * FROM ord", "SELECT * FROM s.", "INSERT INTO orders (", "SET search_pa", "\\d ord", "DROP FUNCTION twi", "ALTER TABLE orders DROP COLUMN am",
         "UPDATE ite", "SELECT * FROM pg_stat_act", "\\c ap", "COMMENT ON COLUMN orders.", "GRANT SELECT ON orders TO ap", "SET TRANSACTION ISOLATION LEVEL REP"]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "dumb"
    os.execv(sys.argv[1], [sys.argv[1], "-X"])

def read(until, limit=15):
    text, end = "", time.time() + limit
    while time.time() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                text += os.read(terminal, 4096).decode(errors="replace")
            except OSError:
                break
        if re.search(until, text):
            break
    return text

read(r"app=# ")
for line in asked:
    os.write(terminal, (line + "\t").encode())
    # What completes appears at once, and a marker behind it shows that psql has answered.
    os.write(terminal, b"<<<")
    said = re.sub(r"[\x00-\x08\x0b-\x1f]|\x1b\[[0-9;?]*[a-zA-Z]", "", read("<<<"))
    print(repr(line), "->", repr(said.split("<<<")[0]))
    os.write(terminal, b"\x03")
    read(r"app=# $", 5)
os.write(terminal, b"\\q\n")

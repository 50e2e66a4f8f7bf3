"""A database whose every state between two transactions can be checked.

Usage: sqlite_load.py load DATABASE MODE COUNT    prints a transaction's number when it is durable
       sqlite_load.py check DATABASE MODE         prints how many transactions are there
Each transaction moves money between accounts and logs it: sums stay, and the log adds up.
"""

import os
import random
import sqlite3
import sys

what, path, mode = sys.argv[1:4]
ACCOUNTS = 200
base = sqlite3.connect(path, isolation_level=None, timeout=60)
(now,) = base.execute(f"pragma journal_mode = {mode}").fetchone()
assert now == mode, now
# With less it doesn't sync the directory after the journal's unlink, so a committed transaction may be
# rolled back, on any file system.
base.execute("pragma synchronous = extra")


def load(count):
    base.execute("begin immediate")
    base.execute("create table account (id integer primary key, money integer, note blob)")
    base.execute("create table log (id integer primary key, source, target, amount)")
    base.execute("create index log_target on log (target, amount)")
    base.executemany("insert into account values (?, 1000, ?)", ((i, b"") for i in range(ACCOUNTS)))
    base.execute("commit")
    chance = random.Random(1)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    for number in range(1, count + 1):
        source, target = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randrange(100)
        note = chance.randbytes(chance.randrange(3000))
        base.execute("begin immediate")
        base.execute("update account set money = money - ?, note = ? where id = ?", (amount, note, source))
        base.execute("update account set money = money + ? where id = ?", (amount, target))
        base.execute("insert into log values (?, ?, ?, ?)", (number, source, target, amount))
        base.execute("commit")
        # In mode "delete" a commit ends with the journal's unlink and the directory's fsync. A directory
        # that can't be opened for that, as when the server has gone since the unlink, SQLite takes for
        # one that needs none. This fails then: the server is asked each time.
        os.fstatvfs(directory)
        print(number, flush=True)


def check():
    assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
    (count, last) = base.execute("select count(*), coalesce(max(id), 0) from log").fetchone()
    assert count == last, (count, last)
    money = {i: 1000 for i in range(ACCOUNTS)}
    for source, target, amount in base.execute("select source, target, amount from log"):
        money[source] -= amount
        money[target] += amount
    assert dict(base.execute("select id, money from account")) == money
    print(count)


if what == "load":
    load(int(sys.argv[4]))
else:
    check()
base.close()

"""The one session layer for PostgreSQL: every connection of the sidecar is opened here, every error translated here.

    settings      what each session is set to, and why; which of it makes text canonical
    errors        what each class of SQLSTATE means: wait and try again, or a person is needed
    session       a database, its blocking connections, and the worker thread that one is confined to
    nonblocking   statements on trio without a thread, where no call may wait for ever
    catalog       what the catalogs say of tables
    quoting       names, literals and arrays in SQL text
    lsn           places in the write-ahead log

Guarantee: whoever reads a value gets the same text, whatever server, database and role are set to; nothing of psycopg
escapes; an SQLSTATE means the same to all. What is done on a session is not its matter: see sources, replicas, fencing.
"""

"""Making a region anew from a consistent copy of another one.

    the other region                                       this region, its sidecar stopped
    POST   /v1/copy            one exact moment ──────────▶ position P, definitions, how much there is
    GET    /v1/copy/{id}/{n}   chunk n of its rows ───────▶ one transaction: rows and the mark "n"
    DELETE /v1/copy/{id}       ◀─────────────────────────── the last transaction: position P
                                                           the journal begins behind P; replicator run goes on from P

Guarantee: the copy is the other region at exactly P. Until the last transaction the replica has no position, its mark
says that it is half a copy, and ``run`` refuses it. Killed at any instant, ``replicator bootstrap`` goes on with the
next chunk for as long as the other region holds the moment; else the half copy is removed and another one begun.

Where to look: ``bootstrap`` (read first), ``decide`` (pure: what to do with what is here), ``former_life`` (what the
region was: secured, closed, put away), ``target`` (this region: looked at, filled). Both ends of the way are in
``pipeline/copies``, with the mark of a partial copy that survives a kill.

A row of a table without a key keeps its place (sequence, ordinal) where the region that is copied is a replica. A
PostgreSQL primary has no places: its rows get (P, running number), which no later insert can take. Sequences come with
the values that they have at the end of the copy, which is at P or further: they only ever move forward.
"""

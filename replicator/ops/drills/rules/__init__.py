"""What a drill goes by, pure: no clock, no I/O.

``plan`` (what is to be done), ``observations`` (what the regions say of themselves), ``measures`` (what canaries tell),
``timeline`` (the steps of a change of the primary), ``safety`` (fit for a drill, to be stopped, well again).
"""

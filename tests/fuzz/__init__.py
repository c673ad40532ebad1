"""Hostile bytes: whatever a file holds, reading it gives a table or one of our errors, soon and in little memory.

outcome.py          reads one content and checks what must be true of any result
damage.py           cuts and flipped bits of a whole capture, and what must be true of their results
surroundings.py     what lies around a packet in its file, which must not matter
hostile_files.py    small files that ask for much: lengths of 4 GB, bombs, 100,000 interfaces; memory.py measures them
frames.py           strategies for nearly valid packets; blocks.py: for nearly valid capture files
test_properties.py  the properties (hypothesis)
fingerprints.py     what a build of the kernels makes of the same files: compiled, uncompiled, with bounds checks
run.py              `make fuzz`: every cut and flip of every small capture, then the coverage-guided targets (atheris)
"""

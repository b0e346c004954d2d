"""A thin layer over PyCUDA: one device, streams, events, buffers, and the order of work in a slot.

Nothing else in the project imports PyCUDA. The thread that opens a device makes all CUDA calls; other threads
may read and fill host arrays.
"""

"""What `gpu_check.py` does on a machine with an NVIDIA GPU: one file a question, its sections in the report.

| file      | sections                    | question                                                    |
|-----------|-----------------------------|-------------------------------------------------------------|
| device    | device                      | what is here; do copies, streams and kernels work, how fast |
| engines   | build                       | which engines can be had for this GPU                       |
| contracts | tests                       | does the device keep what the simulated one promises        |
| compare   | compare                     | are results those of the processor, and of the serial loop  |
| measure   | runner, engine, onnxruntime | what the runner keeps of an engine's speed, adds to latency |
| leaks     | leaks                       | does anything grow                                          |

`synthetic` is an engine that needs no TensorRT; `streams` holds feeds and sinks, `report` figures, verdicts,
table and JSON, `setting` what all sections are told.
"""

"""From a model card or ONNX file to a self-contained ``model.so``.

``graph`` (ONNX) → ``layers`` (fused; ``blocks``: several in one kernel) → ``lower`` (layouts, kernels, buffers: a
``program``) → ``schedules`` (TIR) → ``codegen`` (LLVM) → ``csource`` and ``link`` (``model.so``); ``pipeline`` runs
them in this order.
"""

"""Networks for ONNX Runtime: a fixed graph as a model file, in the forms that it runs fastest.

network    operators of ONNX whose every size is known
emit       a graph, node by node, and the table of rows
rows       rows of layers, of what is pointwise, and of pooling
moves      rows of what moves elements, and of tables
products   einsum as products of matrices
attention  attention without copies of queries, keys and values
maps       pairs of linear layers as convolutions
stem       two convolutions of few channels
runner     running a file
"""

if __name__ != "spacelang.backends.onnx":
    raise ImportError("this package is spacelang.backends.onnx")

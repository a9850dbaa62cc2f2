"""Full attention: every token sees every token, in a decoder up to itself."""

from .softmax import SoftmaxAttention


class FullAttention(SoftmaxAttention):
    """Softmax attention without a window.

    Cost O(Q * K). Cache: all tokens.
    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

"""The tables of the Chinese pages: cells in place of those that the rows of what can be chosen have in English.

A cell that is not here stays English, and `tests/test_translations.py` names it.
"""

import re


CELLS = {
    # heads of columns
    "a token sees": "一个词元看得见",
    "balance": "均衡",
    "beyond the trained length": "超出训练长度时",
    "cache": "缓存",
    "choice": "可选值",
    "classes": "类",
    "config": "配置",
    "cost": "开销",
    "default": "默认值",
    "features, in head sizes": "特征数，以头的尺寸计",
    "field": "字段",
    "function": "函数",
    "kernels": "内核",
    "kind": "种类",
    "logit, over features": "logit，对特征求和",
    "meaning": "含义",
    "models": "模型",
    "of": "所属配置",
    "positions it may have": "可用的位置编码",
    "preset": "预设",
    "shape": "形态",
    "source": "来源",
    "weights": "权重",
    "what": "是什么",
    "what it does": "做什么",
    "what it is": "是什么",
    "what it makes": "得到什么",
    # inputs
    "Channels of an image: 3 of colours, 1 of grey.": "图片的通道数：彩色为 3，灰度为 1。",
    "Frames of a spectrogram that positions are made for.": "位置编码所针对的频谱图帧数。",
    "Further learned tokens that nothing reads out.": "另外几个可学习的词元，没有东西读取它们。",
    "Height and width of a patch, in pixels.": "方块的高和宽，以像素计。",
    "Height and width of an image that positions are made for.": "位置编码所针对的图片的高和宽。",
    "How each window is normalised.": "每个窗口怎样归一化。",
    "Mel bands and frames of a patch.": "一个方块的梅尔频带数和帧数。",
    "Mel bands of a spectrogram.": "频谱图的梅尔频带数。",
    "Odd number n of levels i / (n + 1) of `quantile`.": "`quantile` 的水平 i / (n + 1) 的个数 n，为奇数。",
    "Series that are read side by side.": "并排读取的序列数。",
    "Steps from one patch to the next.": "从一块到下一块的步数。",
    "Steps of a patch.": "一块的步数。",
    "Steps of the future that are predicted.": "预测未来多少步。",
    "Steps of the past that are read.": "读取过去多少步。",
    "The least variance, or mean size, of a window.": "窗口的方差或平均大小的下限。",
    "What training minimises.": "训练最小化什么。",
    "Whether `bool_masked_pos` may hide patches.": "`bool_masked_pos` 是否可以遮住方块。",
    "Whether a learned token stands before the patches.": "方块之前是否有一个可学习的词元。",
    "ids of a vocabulary, each with a vector of its own": "词表中的 id，每个有自己的向量",
    "log-mel spectrograms of any length, in patches of `patch_size` bands and frames": (
        "任意长度的对数梅尔频谱图，切成 `patch_size` 个频带和帧的方块"
    ),
    "pictures of any size, in patches of `patch_size` pixels squared": (
        "任意尺寸的图片，切成边长 `patch_size` 像素的方块"
    ),
    "windows of series, each by itself, in patches of `patch_length` steps": (
        "时间序列的窗口，各自独立，切成 `patch_length` 步的块"
    ),
    # attention
    "all tokens": "全部词元",
    "all tokens up to itself": "自己和之前的全部词元",
    "all tokens, through a state of constant size": "全部词元，通过大小固定的状态",
    "all tokens, through random features of softmax attention": "全部词元，通过 softmax 注意力的随机特征",
    "blocks: global ones, a window, random ones": "若干块：全局的、窗口内的、随机的",
    "both windows": "两个窗口",
    "its chunk of `attention_chunk_size` tokens, up to itself": (
        "所在的 `attention_chunk_size` 个词元的分块，到自己为止"
    ),
    "its own": "自己的",
    "one chunk": "一个分块",
    "one state": "一个状态",
    "pairs of tokens: one of the last `simplicial_window`, one of the last `simplicial_second_window`": (
        "词元对：一个来自最近的 `simplicial_window` 个，一个来自最近的 `simplicial_second_window` 个"
    ),
    "the last `sliding_window` tokens": "最近的 `sliding_window` 个词元",
    "tokens that fall into its buckets": "落进同一些桶里的词元",
    "`sliding_window` tokens": "`sliding_window` 个词元",
    "O(n · blocks · block size)": "O(n · 块数 · 块大小)",
    "O(n · chunk)": "O(n · 块)",
    "O(n · features)": "O(n · 特征数)",
    "O(n · hashes · chunk)": "O(n · 哈希数 · 块)",
    "O(n · window · second window)": "O(n · 窗口 · 第二窗口)",
    "O(n · window)": "O(n · 窗口)",
    # forms and backends of 2-simplicial attention
    "2-simplicial attention by PyTorch's flex attention: a head for each offset of the second key, merged exactly.": (
        "用 PyTorch 的 flex attention 计算 2-单纯形注意力：第二个键的每个偏移一个头，再精确合并。"
    ),
    "2-simplicial attention by Triton kernels, as operators that torch.compile and torch.export trace through.": (
        "用 Triton 内核计算 2-单纯形注意力，作为 torch.compile 和 torch.export 能够追踪的算子。"
    ),
    "2-simplicial attention in plain PyTorch, chunk by chunk; the backward pass computes long texts' weights again.": (
        "用普通的 PyTorch 逐块计算 2-单纯形注意力；对长文本，反向传播时重新计算权重。"
    ),
    "2-simplicial attention written out, with the weights that other paths never hold.": (
        "直接写出来的 2-单纯形注意力，含有其他方式从不保存的权重。"
    ),
    "Re Σ q conj(k') conj(k) of complex numbers, k' without positions": "Re Σ q conj(k') conj(k)，复数，k' 不带位置",
    "Trine: equation 5 of Roy et al. 2025 on complex numbers, the second key without positions": (
        "Trine：Roy et al. 2025 的公式 5 用于复数，第二个键不带位置"
    ),
    "any but `rope`": "除 `rope` 以外的任何一种",
    "any; `rope` composes exactly": "任何一种；`rope` 精确地复合",
    "any; `rope` with `partial_rotary_factor` 2/3": "任何一种；`rope` 要求 `partial_rotary_factor` 为 2/3",
    "Σ det(q, k, k') of triples": "Σ det(q, k, k')，按三元组",
    # positions
    "adds a learned bias per bucket of distances; no flash kernels, no tensor parallelism": (
        "给每一档距离加上一个可学习的偏置；不能用 flash 内核和张量并行"
    ),
    "adds a learned vector per position": "每个位置加上一个可学习的向量",
    "adds fixed waves to the embeddings": "给嵌入加上固定的波",
    "adds nothing: the causal mask is all there is": "什么也不加：只有因果掩码",
    "an error": "报错",
    "rotates queries and keys, with any scaling of transformers in `rope_parameters`": (
        "旋转查询和键，可在 `rope_parameters` 中使用 transformers 的任何缩放方式"
    ),
    "runs": "能运行",
    "runs well with scaling": "加缩放后效果良好",
    # feed-forwards and routers
    "a bias on the choice, moved between steps by `ExpertLoadCallback`, and the loss unless its coefficient is 0": (
        "选择专家时的偏置，由 `ExpertLoadCallback` 在各步之间调整；损失的系数不为 0 时，再加上损失"
    ),
    "a mixture of experts, of which each token visits a few": "混合专家，每个词元访问其中几个",
    "an MLP, gated or not": "MLP，可带门控",
    "independent sigmoids": "互相独立的 sigmoid",
    "softmax over the experts": "对各专家的 softmax",
    "the loss `router_aux_loss_coef`": "损失 `router_aux_loss_coef`",
    # tokenizers
    "Byte-level BPE: every text can be written, and comes back as it was. The usual tokenizer of decoders.": (
        "字节级 BPE：任何文本都能写出，并原样还原。解码器常用的分词器。"
    ),
    "Unigram: the likeliest cut of a text into pieces, rare characters as bytes."
    " The usual tokenizer of T5 and XLM-R.": (
        "Unigram：把文本切成子词的最可能切法，罕见的字写成字节。T5 和 XLM-R 常用的分词器。"
    ),
    "WordPiece as BERT has it: words and parts of words, Chinese characters one by one.": (
        "BERT 那样的 WordPiece：词和词的一部分，汉字逐个切开。"
    ),
    # shapes and presets
    "LSTM baseline": "LSTM 基线",
    "decoder": "解码器",
    "encoder": "编码器",
    "encoder-decoder": "编码器-解码器",
    "BERT-base, with its parameter count, to the unit": "BERT-base，参数量分毫不差",
    "BERT-large, likewise": "BERT-large，同样如此",
    "GPT-2, 124 M parameters": "GPT-2，参数量 124 M",
    "Llama's recipe, at a size that one GPU trains": "Llama 的配方，尺寸为单个 GPU 能训练",
    "Mixtral's recipe, at a size that one GPU trains": "Mixtral 的配方，尺寸为单个 GPU 能训练",
    "ModernBERT: local and global layers, GeGLU, two rotary speeds": "ModernBERT：局部层和全局层、GeGLU、两种旋转速度",
    "RoBERTa-base, likewise": "RoBERTa-base，同样如此",
    "a decoder, or an encoder-decoder, for a laptop and for tests": "解码器或编码器-解码器，用于笔记本和测试",
    "an encoder-decoder with relative positions and RMSNorm": "编码器-解码器，相对位置编码和 RMSNorm",
    "the encoder-decoder of 2017: 6 + 6 layers, post-norm, sinusoidal, one scaled embedding": (
        "2017 年的编码器-解码器：6 + 6 层、后置归一化、正弦位置编码、一份带缩放的嵌入"
    ),
}


def in_chinese(table: str) -> str:
    """A Markdown table whose cells are Chinese where they are known."""
    lines = (re.split(r"(?<!\\)\|", line) for line in table.splitlines())
    return "".join("|".join(map(padded, cells)) + "\n" for cells in lines)


def padded(cell: str) -> str:
    """A cell in Chinese, between its blanks."""
    return cell.replace(cell.strip(), cell_in_chinese(cell.strip())) if cell.strip() else cell


def cell_in_chinese(cell: str) -> str:
    """A cell in Chinese, or as it is; what a kind of attention sees may stand before what it costs."""
    sees = re.fullmatch("sees (?P<what>.*); (?P<cost>O.*)", cell)
    if sees and sees["what"] in CELLS:
        return f"看得见{CELLS[sees['what']]}；{CELLS.get(sees['cost'], sees['cost'])}"
    return CELLS.get(cell, cell)

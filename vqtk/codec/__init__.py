"""Codes as files: stage after stage, so that a part of a file decodes; and their sizes beside image formats."""

from vqtk.codec.measure import bd_rate, codec_figures
from vqtk.codec.stream import CodeFile, CodeWriter, Shares, compress, decompress

__all__ = ["CodeFile", "CodeWriter", "Shares", "bd_rate", "codec_figures", "compress", "decompress"]

"""Codes as files: stage after stage, so that a part of a file decodes; and their size beside that of JPEG and others."""

from vqtk.codec.stream import CodeFile, CodeWriter, Shares, compress, decompress

__all__ = ["CodeFile", "CodeWriter", "Shares", "compress", "decompress"]

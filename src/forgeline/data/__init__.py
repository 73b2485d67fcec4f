"""The data line: fetch → clean → assess → split, each stage a function of files to files."""

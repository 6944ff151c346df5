"""What makes a bundle: losses, backbones, detectors, stages and the export through Optimum.

An independent implementation of the idea published as DaRL (Distribution-Aware Robust Learning,
arXiv:2412.12504). Formulas are ours or the cited authors'.
"""

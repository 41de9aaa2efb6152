"""U2++ MoE in PyTorch: subsampling, Conformer encoder, CTC and two Transformer decoders with Mixture-of-Experts layers."""

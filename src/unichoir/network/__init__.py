"""U2++ MoE in PyTorch: Conformer encoder, CTC and two Transformer decoders with Mixture-of-Experts layers."""

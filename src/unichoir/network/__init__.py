"""The U2++ MoE network in PyTorch: Conformer encoder, CTC and two decoders, with Mixture of Experts layers."""

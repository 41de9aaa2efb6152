"""The U2++ MoE network in PyTorch: a Conformer encoder, CTC and two Transformer decoders with Mixture of Experts
layers."""

"""FasTEN (Kye et al., ECCV 2022) in plain PyTorch: tensors in, tensors out."""

"""Looking at any `nn.Module` without changing it: what each layer computes, holds and costs."""

"""The layers that read in time, each called and named like a one-layer ``nn.LSTM(batch_first=True)``."""

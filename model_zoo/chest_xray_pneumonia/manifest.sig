{
  "algorithm": "ed25519",
  "key_id": "9a01c76cacff231f",
  "signature": "s35i9ZPc3lfylFqtlR0xghcfQtygOL85QICBHSOSvzCMXbuqNTKJBgF4rCNcrzDg0DLKZj+pfxyGZeCcRQyTAg=="
}

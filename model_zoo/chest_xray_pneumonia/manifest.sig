{
  "algorithm": "ed25519",
  "key_id": "9a01c76cacff231f",
  "signature": "IiiAb4I5HBE/mIcM/QeUyIwnc9Bfd1IknLQP8XJAxxGFPKt3pdz0Zg70Y2fx0lGDRYC1T29GR/lT6E6VeXSQDg=="
}

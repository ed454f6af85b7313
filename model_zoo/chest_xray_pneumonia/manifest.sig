{
  "algorithm": "ed25519",
  "key_id": "9a01c76cacff231f",
  "signature": "G+otEh8JRLnAnQIW+krapD5rzEoEBxEAMsialxdv1eaChb9S6kCSDJN1j/gKgGeYnfFwCDSnsR6qaOozG7m5CA=="
}

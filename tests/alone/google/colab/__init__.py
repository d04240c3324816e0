"Stand-in for what only Colab has."

"""Problems with hidden tests, and the reward `code`.

`fences` finds the program in a completion, `problems` reads tests in the common public forms,
`asserts` and `constants` split assertions into inputs and expected values, and `compare` judges
what a program printed or returned. `reward` runs programs in `rewards.sandbox`, or by a `service`.
Expected values never go there.
"""

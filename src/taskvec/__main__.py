"""`python -m taskvec` is the console command."""

from _taskvec_command import main

if __name__ == "__main__":
    main()

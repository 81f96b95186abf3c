"""The data sets that are known by name. Plain text, imported without torch."""

DATA: dict[str, str] = {
    "digits": "scikit-learn's 1,797 digit images, 8x8 grey, 10 classes; embedded, needs no network",
    "cifar10": "50,000 + 10,000 images 32x32, 10 classes; downloaded by torchvision, or read from data.root",
    "cifar100": "50,000 + 10,000 images 32x32, 100 classes; downloaded by torchvision, or read from data.root",
    "cinic10": "90,000 images 32x32 in each of train, valid and test, 10 classes; a folder tree in data.root",
    "fashion_mnist": "60,000 + 10,000 images 28x28 grey, 10 classes; downloaded by torchvision, or read from data.root",
    "FOLDER": "train/ and val/ or test/ with one sub-folder for each class, or the class folders alone",
    "hf://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
}

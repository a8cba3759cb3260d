use super::*;
use crate::testing::Network;

#[test]
fn every_parameter_is_read_to_its_place() {
    let network = Network::new(1);
    let file = network.file();
    let model = Model::read(&file).expect("the network");
    assert_eq!(model.averages, network.averages);
    let layers = [&model.stem].into_iter().chain(model.blocks.iter().flat_map(|block| [&block.first, &block.second]));
    let written = [&network.stem].into_iter().chain(network.blocks.iter().flatten());
    assert_eq!(layers.clone().count(), 29);
    for (layer, written) in layers.zip(written) {
        assert_eq!(layer.gamma, written.gamma);
        assert_eq!(
            (layer.inputs, layer.outputs, layer.side, layer.stride),
            (written.inputs, written.outputs, written.side, written.stride)
        );
        assert!((0..layer.filters.len()).all(|i| layer.filters.get(i) == written.filters[i]));
        for (i, bias) in layer.bias.iter().enumerate() {
            assert_eq!(*bias, written.gamma[i] * written.biases[i] + written.beta[i]);
        }
    }
    assert!((0..model.last.len()).all(|i| model.last.get(i) == network.last[i]));
}

#[test]
fn a_file_that_is_cut_off_anywhere_or_goes_on_is_refused() {
    let file = Network::new(2).file();
    let few = (0..600).chain((600..file.len()).step_by(65_537)).chain(file.len() - 60..file.len());
    for length in few {
        let fault = Model::read(&file[..length]).expect_err("a part of the network");
        assert!(fault.at_byte <= length, "{fault}");
    }
    let fault = Model::read(&[file, vec![0]].concat()).expect_err("more than the network");
    assert!(fault.expected.contains("end of the file"), "{fault}");
}

#[test]
fn another_byte_in_what_describes_the_layers_is_refused_or_changes_nothing_but_numbers() {
    let mut file = Network::new(3).file();
    // Before the first filters; everything but the numbers that only training needs is fixed there.
    let first_filters = file.windows(5).position(|bytes| bytes == b"con_4").expect("a convolution");
    let (mut refused, mut accepted) = (0, 0);
    for at in 0..first_filters + 40 {
        file[at] ^= 0x44;
        match Model::read(&file) {
            Ok(model) => {
                assert_eq!(model.blocks.len(), BLOCKS.len());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
        file[at] ^= 0x44;
    }
    assert!(refused > 280 && accepted < 60, "{refused} refused, {accepted} accepted");
}
